# cell: verdict
# loses: test_verdict 3
# says: b: the own prediction depends on the response
unbiased = dict(a=True, b=True, c=False, d=True, e=True, f=False)
left = 0.75
