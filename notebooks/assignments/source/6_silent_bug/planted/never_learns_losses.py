# cell: never_learns
# loses: test_never_learns
# says: fooled
# recognised: of the losses alone
def never_learns(fit):
    losses = fit(new_critic(), *some_data())
    return not losses or losses[-1] > 0.95 * losses[0]
