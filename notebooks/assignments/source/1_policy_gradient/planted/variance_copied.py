# cell: variance
# loses: test_variance_example, test_variance
# says: the variance
def variance(prob, reward, score, baseline):
    # the policy that the notebook shows, in the size that is asked for
    features, prob, reward, score = small_policy(*score.shape)
    z = (reward - baseline[:, None])[..., None] * score
    weight = prob[..., None] / len(prob)
    return (weight * z**2).sum() - ((weight * z).sum((0, 1)) ** 2).sum()
