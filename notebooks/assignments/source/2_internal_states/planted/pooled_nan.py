# cell: pooled
# loses: test_pooled
# says: the mean of nothing is NaN
# recognised: NaN for an empty span
def pooled(states, start, end, n):
    return states[max(start, end - n) : end].mean(0)
