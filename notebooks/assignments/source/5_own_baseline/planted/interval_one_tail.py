# cell: interval
# loses: test_interval_example, test_interval
# says: this leaves 5 % in each tail
# recognised: one tail for two
def interval(first, second):
    d = np.asarray(first) - np.asarray(second)
    half = stats.t.ppf(0.95, len(d) - 1) * stats.sem(d)
    return d.mean(), d.mean() - half, d.mean() + half
