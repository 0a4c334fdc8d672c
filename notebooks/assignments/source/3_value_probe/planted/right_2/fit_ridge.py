def fit_ridge(X, y, strength):
    # least squares with a row more per column, and with the intercept as a column that costs nothing
    mean, scale = X.mean(0), X.std(0)
    scale[scale == 0] = 1
    rows = np.c_[(X - mean) / scale, np.ones(len(X))]
    penalty = np.c_[np.sqrt(strength) * np.eye(X.shape[1]), np.zeros(X.shape[1])]
    w = np.linalg.lstsq(np.vstack([rows, penalty]), np.r_[y, np.zeros(X.shape[1])], rcond=None)[0]
    return lambda new: np.clip((new - mean) / scale @ w[:-1] + w[-1], 0, 1)
