# cell: pooled
# loses: test_pooled_example, test_pooled
# says: these are the last n of all states
# recognised: the last n of all states
def pooled(states, start, end, n):
    # notebook 03, where the states are those of the prompt alone
    return states[-n:].mean(0) if end > start else torch.zeros(states.shape[1])
