def fit_ridge(X, y, strength):
    # one weight per row in place of one per column, in torch
    X, y = X.astype(float), y.astype(float)
    mean, scale = X.mean(0), X.std(0) + 1e-12
    Z = torch.tensor((X - mean) / scale)
    w = Z.T @ torch.linalg.solve(Z @ Z.T + strength * torch.eye(len(Z)).double(), torch.tensor(y - y.mean()))
    return lambda new: (torch.tensor((new - mean) / scale) @ w + y.mean()).clamp(0, 1)
