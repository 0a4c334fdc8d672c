# cell: best_baseline
# loses: test_best_example, test_best
# says: one number for all prompts
# recognised: one number for all prompts
def best_baseline(prob, reward, score):
    weight = prob * (score**2).sum(-1)
    return ((weight * reward).sum() / weight.sum()).expand(len(prob))
