# cell: verdict
# loses: test_verdict
# says: f: the largest prediction of the whole group may be the response's own
# recognised: a baseline that holds something of the response itself
unbiased = dict(a=True, b=False, c=False, d=True, e=True, f=True)
left = 0.75
