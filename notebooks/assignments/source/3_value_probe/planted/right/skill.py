def skill(predictions, value):
    return 1 - np.sum((value - predictions) ** 2) / np.sum((value - np.mean(value)) ** 2)
