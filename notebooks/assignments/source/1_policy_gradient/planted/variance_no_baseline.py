# cell: variance
# loses: test_variance_example, test_variance
# says: is it used?
# recognised: a baseline that is forgotten
def variance(prob, reward, score, baseline):
    z = reward[..., None] * score
    weight = prob[..., None] / len(prob)
    return (weight * z**2).sum() - ((weight * z).sum((0, 1)) ** 2).sum()
