# cell: fit_ridge
# loses: test_ridge_example, test_ridge
# says: the predictions is
def fit_ridge(X, y, strength):
    # the line of notebook 04, which has a strength of its own
    return pl.ValueProbe.preset("paper").fit(X, y).predict
