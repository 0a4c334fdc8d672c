# cell: logit_mask
# loses: test_mask_example 1, test_mask 3
# says: the prompt is in the loss
# recognised: the prompt in the loss
def logit_mask(prompts, responses, T):
    return torch.arange(T) < (prompts + responses)[:, None] - 1
