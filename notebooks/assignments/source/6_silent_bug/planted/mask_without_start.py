# cell: logit_mask
# loses: test_mask_example, test_mask
# says: response is missing
# recognised: a missing first token
def logit_mask(prompts, responses, T):
    t = torch.arange(T)
    return (t >= prompts[:, None]) & (t < (prompts + responses)[:, None] - 1)
