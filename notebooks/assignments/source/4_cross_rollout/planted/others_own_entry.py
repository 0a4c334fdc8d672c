# cell: others_mean
# loses: test_others_example, test_others
# says: this is the response's own entry
# recognised: the own entry
def others_mean(x):
    return x
