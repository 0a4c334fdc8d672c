# cell: never_learns
# loses: test_never_learns
# says: a critic that learns is called dead
# recognised: one that says the same to all
def never_learns(fit):
    return True
