# cell: honest
# loses: test_honest 3
# says: the others are drawn independently
honest = dict.fromkeys("abcdef", False)
