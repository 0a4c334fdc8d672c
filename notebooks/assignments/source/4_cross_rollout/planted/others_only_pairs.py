# cell: others_mean
# loses: test_others
# says: this takes one partner
# recognised: the partner of a pair, where groups are larger
def others_mean(x):
    return x.flip(1)
