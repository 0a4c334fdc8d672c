# cell: pooled
# loses: test_pooled_example, test_pooled
# says: positions before the span are in it
# recognised: positions before the span
def pooled(states, start, end, n):
    if start == end:
        return torch.zeros(states.shape[1])
    return states[max(0, end - n) : end].mean(0)
