# cell: honest
# loses: test_honest 3
# says: includes the response itself
# recognised: a baseline that depends on the response it judges
honest = dict.fromkeys("abcdef", True)
