# cell: pooled
# loses: test_pooled_example, test_pooled
# says: divided by n, though there are fewer
# recognised: division by n where there are fewer
def pooled(states, start, end, n):
    return states[max(start, end - n) : end].sum(0) / n
