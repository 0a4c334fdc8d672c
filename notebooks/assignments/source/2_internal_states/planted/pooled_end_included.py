# cell: pooled
# loses: test_pooled_example, test_pooled
# says: the position at `end` does not belong
# recognised: the position at `end`
def pooled(states, start, end, n):
    if start == end:
        return torch.zeros(states.shape[1])
    return states[max(start, end - n + 1) : end + 1].mean(0)
