# cell: cross_advantages
# loses: test_cross_example 1, test_cross 3
# says: judged by its own prediction
# recognised: the response's own prediction
def cross_advantages(rewards, values):
    return rewards - values
