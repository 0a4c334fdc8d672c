# cell: fit_ridge
# loses: test_ridge_example, test_ridge
# says: standardised with their own mean
# recognised: new rows standardised with their own mean
def fit_ridge(X, y, strength):
    def standardised(A):
        scale = A.std(0)
        return (A - A.mean(0)) / np.where(scale > 0, scale, 1.0)

    Z, b = standardised(X), y.mean()
    w = np.linalg.solve(Z.T @ Z + strength * np.eye(Z.shape[1]), Z.T @ (y - b))
    return lambda new: np.clip(standardised(new) @ w + b, 0.0, 1.0)
