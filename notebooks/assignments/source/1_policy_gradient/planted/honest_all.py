# cell: honest
# loses: test_honest
# says: includes the response itself
# recognised: a baseline that depends on the response it judges
honest = dict.fromkeys("abcdef", True)
