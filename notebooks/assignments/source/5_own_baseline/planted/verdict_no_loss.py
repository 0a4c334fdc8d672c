# cell: verdict
# loses: test_verdict
# says: d: the interval lies below 0
# recognised: a clear loss left undecided
verdict = dict(a="better", b="undecided", c="undecided", d="undecided")
