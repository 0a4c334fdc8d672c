# cell: never_learns
# loses: test_never_learns 3
# says: a critic that learns is called dead
def never_learns(fit):
    return True
