# cell: cross_advantages
# loses: test_cross_example, test_cross
# says: the sign is wrong
# recognised: the sign
def cross_advantages(rewards, values):
    return (values.sum(1, keepdim=True) - values) / (values.shape[1] - 1) - rewards
