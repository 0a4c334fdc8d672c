# cell: variance
# loses: test_variance_example, test_variance
# says: the scatter between prompts is lost
# recognised: a mean taken for each prompt
def variance(prob, reward, score, baseline):
    z = (reward - baseline[:, None])[..., None] * score
    mean = (prob[..., None] * z).sum(1, keepdim=True)
    return (prob[..., None] * (z - mean) ** 2).sum() / len(prob)
