# cell: interval
# loses: test_interval_example, test_interval
# says: this is unpaired
# recognised: an unpaired interval
def interval(first, second):
    a, b = np.asarray(first), np.asarray(second)
    n, d = len(a), a.mean() - b.mean()
    half = stats.t.ppf(0.975, 2 * n - 2) * ((a.var(ddof=1) + b.var(ddof=1)) / n) ** 0.5
    return d, d - half, d + half
