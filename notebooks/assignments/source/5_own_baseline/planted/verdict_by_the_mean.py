# cell: verdict
# loses: test_verdict 3
# says: b: the mean is higher
# recognised: a verdict by the means alone
verdict = dict(a="better", b="better", c="better", d="worse")
