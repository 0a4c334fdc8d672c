# cell: interval
# loses: test_interval_example, test_interval
# says: 1.96 holds for many runs
# recognised: 1.96 for t
def interval(first, second):
    d = np.asarray(first) - np.asarray(second)
    half = 1.96 * d.std(ddof=1) / len(d) ** 0.5
    return d.mean(), d.mean() - half, d.mean() + half
