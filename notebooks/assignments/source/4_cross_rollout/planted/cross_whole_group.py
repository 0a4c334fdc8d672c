# cell: cross_advantages
# loses: test_cross_example, test_cross
# says: this is the mean over the whole group, including the response itself
# recognised: the mean over the whole group
def cross_advantages(rewards, values):
    return rewards - values.mean(1, keepdim=True)
