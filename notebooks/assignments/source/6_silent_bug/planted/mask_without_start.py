# cell: logit_mask
# loses: test_mask_example 1, test_mask 3
# says: response is missing
# recognised: a missing first token
def logit_mask(prompts, responses, T):
    t = torch.arange(T)
    return (t >= prompts[:, None]) & (t < (prompts + responses)[:, None] - 1)
