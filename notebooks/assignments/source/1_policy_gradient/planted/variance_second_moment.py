# cell: variance
# loses: test_variance_example, test_variance
# says: this is the second moment
# recognised: the second moment alone
def variance(prob, reward, score, baseline):
    z = (reward - baseline[:, None])[..., None] * score
    return (prob[..., None] * z**2).sum() / len(prob)
