# cell: honest
# loses: test_honest
# says: however bad it is
# recognised: a bad one taken for a dishonest one
honest = dict(a=False, b=False, c=True, d=False, e=False, f=True)
