# cell: never_learns
# loses: test_never_learns
# says: fooled: this critic has learned the mean reward only
# recognised: one that knows only the colleague's
def never_learns(fit):
    return fit is fit_as_found
