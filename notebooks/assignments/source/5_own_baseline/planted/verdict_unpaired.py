# cell: verdict
# loses: test_verdict
# says: a: the seeds differ
# recognised: an interval that is not paired
verdict = dict(a="undecided", b="undecided", c="undecided", d="worse")
