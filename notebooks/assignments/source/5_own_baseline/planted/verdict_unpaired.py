# cell: verdict
# loses: test_verdict
# says: a: the seeds differ
# recognised: an interval that is not paired
verdict = dict(a="not be told", b="not be told", c="not be told", d="worse")
