# cell: fit
# loses: test_fit_example, test_fit
# says: no weight of the critic has changed
# recognised: weights that do not change
fit = fit_as_found
