# cell: verdict
# loses: test_verdict 3
# says: a: the seeds differ
verdict = dict(a="not be told", b="not be told", c="not be told", d="worse")
