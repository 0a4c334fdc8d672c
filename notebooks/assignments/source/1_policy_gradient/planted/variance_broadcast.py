# cell: variance
# loses: test_variance
# says: must match the size
def variance(prob, reward, score, baseline):
    z = (reward - baseline)[..., None] * score  # one number per prompt along the responses: it runs where P = N
    weight = prob[..., None] / len(prob)
    return (weight * z**2).sum() - ((weight * z).sum((0, 1)) ** 2).sum()
