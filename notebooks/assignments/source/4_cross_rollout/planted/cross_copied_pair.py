# cell: cross_advantages
# loses: test_cross
# says: this takes one partner
# recognised: one partner, where groups are larger
def cross_advantages(rewards, values):
    return rewards - values.flip(1)
