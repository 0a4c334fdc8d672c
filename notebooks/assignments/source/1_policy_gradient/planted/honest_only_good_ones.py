# cell: honest
# loses: test_honest 3
# says: however bad it is
honest = dict(a=False, b=False, c=True, d=False, e=False, f=True)
