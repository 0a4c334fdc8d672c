# cell: verdict
# loses: test_verdict
# says: b: the mean is higher
# recognised: a verdict by the means alone
verdict = dict(a="better", b="better", c="better", d="worse")
