# cell: gradient
# loses: test_gradient_example, test_gradient
# says: the probability is missing
# recognised: the probability forgotten
def gradient(prob, reward, score):
    return (reward[..., None] * score).sum(1).mean(0)
