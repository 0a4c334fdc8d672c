# cell: fit
# loses: test_fit_example 2, test_fit 3
# says: no weight of the critic has changed
# recognised: weights that do not change
fit = fit_as_found
