# cell: verdict
# loses: test_verdict 3
# says: the share that is lost is 1/M
unbiased = dict(a=True, b=False, c=False, d=True, e=True, f=False)
left = 0.25
