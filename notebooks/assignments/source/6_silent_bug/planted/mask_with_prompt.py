# cell: logit_mask
# loses: test_mask_example, test_mask
# says: the prompt is in the loss
# recognised: the prompt in the loss
def logit_mask(prompts, responses, T):
    return torch.arange(T) < (prompts + responses)[:, None] - 1
