# cell: fit
# loses: test_fit_example 2, test_fit 3
# says: no weight of the critic has changed
fit = fit_as_found
