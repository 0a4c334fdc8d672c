# cell: interval
# loses: test_interval
# says: the interval of 3 seeds
def interval(first, second):
    return 0.2, -0.0484138, 0.4484138
