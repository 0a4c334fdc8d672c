# cell: never_learns
# loses: test_never_learns_example 1, test_never_learns 3
# says: the check does not say so
# recognised: one that says the same to all
def never_learns(fit):
    return False
