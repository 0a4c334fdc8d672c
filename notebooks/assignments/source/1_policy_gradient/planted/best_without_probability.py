# cell: best_baseline
# loses: test_best_example, test_best
# says: the probability is missing
# recognised: the squared score summed without the probability
def best_baseline(prob, reward, score):
    weight = (score**2).sum(-1)
    return (weight * reward).sum(1) / weight.sum(1)
