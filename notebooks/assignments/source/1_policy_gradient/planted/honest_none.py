# cell: honest
# loses: test_honest
# says: the others are drawn independently
honest = dict.fromkeys("abcdef", False)
