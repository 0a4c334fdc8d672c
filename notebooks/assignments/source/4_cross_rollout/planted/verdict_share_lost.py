# cell: verdict
# loses: test_verdict
# says: the share that is lost is 1/M
# recognised: the share that is lost for the share that is left
unbiased = dict(a=True, b=False, c=False, d=True, e=True, f=False)
left = 0.25
