# cell: others_mean
# loses: test_others 3
# says: this takes one partner
def others_mean(x):
    return x.flip(1)
