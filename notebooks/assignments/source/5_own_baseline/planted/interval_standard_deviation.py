# cell: interval
# loses: test_interval_example, test_interval
# says: this is the standard deviation
# recognised: the standard deviation for the standard error
def interval(first, second):
    d = np.asarray(first) - np.asarray(second)
    half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1)
    return d.mean(), d.mean() - half, d.mean() + half
