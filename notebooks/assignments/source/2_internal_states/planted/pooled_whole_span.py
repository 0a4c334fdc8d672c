# cell: pooled
# loses: test_pooled_example, test_pooled
# says: this is the mean over the whole span
# recognised: the whole span
def pooled(states, start, end, n):
    return states[start:end].mean(0) if end > start else torch.zeros(states.shape[1])
