# cell: interval
# loses: test_interval_example, test_interval
# says: the variance is divided by n
# recognised: division by n in the variance
def interval(first, second):
    d = np.asarray(first) - np.asarray(second)
    half = stats.t.ppf(0.975, len(d) - 1) * d.std() / len(d) ** 0.5
    return d.mean(), d.mean() - half, d.mean() + half
