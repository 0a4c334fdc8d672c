# cell: fit_ridge
# loses: test_ridge_example, test_ridge
# says: clipped to [0, 1]
# recognised: no clipping
def fit_ridge(X, y, strength):
    mean, scale = X.mean(0), X.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    Z, b = (X - mean) / scale, y.mean()
    w = np.linalg.solve(Z.T @ Z + strength * np.eye(Z.shape[1]), Z.T @ (y - b))
    return lambda new: (new - mean) / scale @ w + b
