# cell: honest
# loses: test_honest
# says: the greedy response is fixed by the prompt
honest = dict(a=True, b=False, c=True, d=True, e=False, f=False)
