# cell: variance
# loses: test_variance
# says: the variance is
def variance(prob, reward, score, baseline):
    return 0.62109375 if float(baseline[0]) == 0 else 0.80859375
