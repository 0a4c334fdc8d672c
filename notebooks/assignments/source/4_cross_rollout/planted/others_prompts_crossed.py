# cell: others_mean
# loses: test_others_example, test_others
# says: prompts are crossed here
# recognised: neighbours in the wrong direction
def others_mean(x):
    return (x.sum(0, keepdim=True) - x) / max(x.shape[0] - 1, 1)
