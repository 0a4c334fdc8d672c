# cell: honest
# loses: test_honest 3
# says: includes the response itself
honest = dict.fromkeys("abcdef", True)
