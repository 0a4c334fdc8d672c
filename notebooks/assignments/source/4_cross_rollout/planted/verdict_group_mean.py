# cell: verdict
# loses: test_verdict
# says: c: this is the mean over the whole group, including the response itself
# recognised: a baseline that holds something of the response itself
unbiased = dict(a=True, b=False, c=True, d=True, e=True, f=False)
left = 1.0
