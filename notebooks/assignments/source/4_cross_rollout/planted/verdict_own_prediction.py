# cell: verdict
# loses: test_verdict
# says: b: the own prediction depends on the response
# recognised: a baseline that holds something of the response itself
unbiased = dict(a=True, b=True, c=False, d=True, e=True, f=False)
left = 0.75
