# cell: fit_ridge
# loses: test_ridge_example, test_ridge
# says: the columns are not standardised
# recognised: columns not standardised
def fit_ridge(X, y, strength):
    mean, b = X.mean(0), y.mean()
    Z = X - mean
    w = np.linalg.solve(Z.T @ Z + strength * np.eye(Z.shape[1]), Z.T @ (y - b))
    return lambda new: np.clip((new - mean) @ w + b, 0.0, 1.0)
