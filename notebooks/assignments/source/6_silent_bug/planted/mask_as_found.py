# cell: logit_mask
# loses: test_mask_example, test_mask
# says: off by one
# recognised: the positions of the tokens for those of the logits
def logit_mask(prompts, responses, T):
    t = torch.arange(T)
    return (t >= prompts[:, None]) & (t < (prompts + responses)[:, None])
