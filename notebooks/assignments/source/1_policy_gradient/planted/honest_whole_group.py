# cell: honest
# loses: test_honest 3
# says: includes the response itself
honest = dict(a=True, b=True, c=True, d=True, e=False, f=True)
