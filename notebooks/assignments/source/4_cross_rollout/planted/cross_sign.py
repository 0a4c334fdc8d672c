# cell: cross_advantages
# loses: test_cross_example 1, test_cross 3
# says: the sign is wrong
# recognised: the sign
def cross_advantages(rewards, values):
    return (values.sum(1, keepdim=True) - values) / (values.shape[1] - 1) - rewards
