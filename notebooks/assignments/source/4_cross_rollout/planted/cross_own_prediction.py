# cell: cross_advantages
# loses: test_cross_example, test_cross
# says: judged by its own prediction
# recognised: the response's own prediction
def cross_advantages(rewards, values):
    return rewards - values
