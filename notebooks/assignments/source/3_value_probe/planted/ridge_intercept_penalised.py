# cell: fit_ridge
# loses: test_ridge_example, test_ridge
# says: the intercept is penalised
# recognised: the penalised intercept
def fit_ridge(X, y, strength):
    mean, scale = X.mean(0), X.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    Z = np.c_[(X - mean) / scale, np.ones(len(X))]
    w = np.linalg.solve(Z.T @ Z + strength * np.eye(Z.shape[1]), Z.T @ y)
    return lambda new: np.clip(np.c_[(new - mean) / scale, np.ones(len(new))] @ w, 0.0, 1.0)
