# cell: best_baseline
# loses: test_best
# says: the best baseline is
def best_baseline(prob, reward, score):
    weight = prob * score.sum(-1) ** 2  # right for one weight only
    return (weight * reward).sum(1) / weight.sum(1)
