def training_rows(features, rewards):
    X, y = [], []
    for f, r in zip(features, rewards):
        X += [f[0], f[1]]
        y += [r[1], r[0]]
    return np.array(X), np.array(y)
