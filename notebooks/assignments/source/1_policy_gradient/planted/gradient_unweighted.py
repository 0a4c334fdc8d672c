# cell: gradient
# loses: test_gradient_example, test_gradient
# says: each counts with its probability
# recognised: all responses weighted alike
def gradient(prob, reward, score):
    return (reward[..., None] * score).mean((0, 1))
