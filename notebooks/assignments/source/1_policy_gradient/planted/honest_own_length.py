# cell: honest
# loses: test_honest
# says: whatever is computed from the response itself
# recognised: a baseline that depends on the response it judges
honest = dict(a=True, b=False, c=True, d=True, e=True, f=True)
