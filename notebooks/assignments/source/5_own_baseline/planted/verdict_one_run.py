# cell: verdict
# loses: test_verdict
# says: c: the mean comes from one run
# recognised: one run taken for all
# the first wins with all five seeds
verdict = dict(a="better", b="undecided", c="better", d="worse")
