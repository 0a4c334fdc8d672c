# cell: pooled
# loses: test_pooled_example 2, test_pooled 3
# says: divided by n, though fewer
def pooled(states, start, end, n):
    return states[max(start, end - n) : end].sum(0) / n
