# cell: verdict
# loses: test_verdict
# says: d: the interval lies below 0
# recognised: a clear loss that is not told
verdict = dict(a="better", b="not be told", c="not be told", d="not be told")
