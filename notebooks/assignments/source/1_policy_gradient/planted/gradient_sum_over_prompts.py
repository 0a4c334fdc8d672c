# cell: gradient
# loses: test_gradient_example 1, test_gradient 3
# says: J is their mean
# recognised: the sum over prompts for their mean
def gradient(prob, reward, score):
    return torch.einsum("xn,xnk->k", prob * reward, score)
