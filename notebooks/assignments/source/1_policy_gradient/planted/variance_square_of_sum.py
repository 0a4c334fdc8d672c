# cell: variance
# loses: test_variance
# says: the variance is
def variance(prob, reward, score, baseline):
    z = (reward - baseline[:, None])[..., None] * score
    weight = prob[..., None] / len(prob)
    return (weight * z**2).sum() - (weight * z).sum() ** 2  # all weights added before the square
