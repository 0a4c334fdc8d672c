# cell: logit_mask
# loses: test_mask_example, test_mask
# says: the end of the response, is missing
# recognised: a missing last token
def logit_mask(prompts, responses, T):
    t = torch.arange(T)
    return (t >= prompts[:, None] - 1) & (t < (prompts + responses)[:, None] - 2)
