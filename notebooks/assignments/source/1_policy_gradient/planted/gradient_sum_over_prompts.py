# cell: gradient
# loses: test_gradient_example, test_gradient
# says: J is their mean
# recognised: the sum over prompts for their mean
def gradient(prob, reward, score):
    return torch.einsum("xn,xnk->k", prob * reward, score)
