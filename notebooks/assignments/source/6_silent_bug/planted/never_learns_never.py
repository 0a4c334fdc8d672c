# cell: never_learns
# loses: test_never_learns_example, test_never_learns
# says: the check does not say so
# recognised: one that says the same to all
def never_learns(fit):
    return False
