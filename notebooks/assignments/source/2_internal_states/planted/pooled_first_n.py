# cell: pooled
# loses: test_pooled_example, test_pooled
# says: these are the first n of the span
# recognised: the first n of the span
def pooled(states, start, end, n):
    span = states[start : min(end, start + n)]
    return span.mean(0) if len(span) else torch.zeros(states.shape[1])
