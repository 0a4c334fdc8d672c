def interval(first, second):
    d = [a - b for a, b in zip(first, second)]
    m, se = np.mean(d), stats.sem(d)
    low, high = stats.t.interval(0.95, len(d) - 1, loc=m, scale=se)
    return [m, low, high]
