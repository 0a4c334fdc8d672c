# cell: honest
# loses: test_honest
# says: includes the response itself
# recognised: a baseline that depends on the response it judges
honest = dict(a=True, b=True, c=True, d=True, e=False, f=True)
