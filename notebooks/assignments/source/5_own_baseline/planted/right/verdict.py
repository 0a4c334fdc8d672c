verdict = {}
for k, (x, y) in cases.items():
    _, low, high = pl.mean_interval(np.subtract(x, y))
    verdict[k] = "better" if low > 0 else "worse" if high < 0 else "undecided"
