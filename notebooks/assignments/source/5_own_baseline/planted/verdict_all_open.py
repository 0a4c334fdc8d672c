# cell: verdict
# loses: test_verdict 3
# says: a: the seeds differ
verdict = dict.fromkeys("abcd", "not be told")
