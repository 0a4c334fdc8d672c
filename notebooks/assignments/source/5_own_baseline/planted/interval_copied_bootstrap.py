# cell: interval
# loses: test_interval_example, test_interval
# says: the interval is
# the library line that looks alike
def interval(first, second):
    return pl.bootstrap_interval(np.mean, np.asarray(first) - np.asarray(second))
