# cell: logit_mask
# loses: test_mask
# says: the mask has shape
def logit_mask(prompts, responses, T):
    return torch.tensor([[0, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]], dtype=torch.bool)
