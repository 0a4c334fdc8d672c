# cell: pooled
# loses: test_pooled_example, test_pooled
# says: divided by n, though fewer
# recognised: division by n where fewer are there
def pooled(states, start, end, n):
    return states[max(start, end - n) : end].sum(0) / n
