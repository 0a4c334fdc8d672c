# cell: verdict
# loses: test_verdict
# says: a: the seeds differ
verdict = dict.fromkeys("abcd", "undecided")
