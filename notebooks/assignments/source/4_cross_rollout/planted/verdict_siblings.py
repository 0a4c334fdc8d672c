# cell: verdict
# loses: test_verdict
# says: d: whatever is made of siblings alone
# recognised: siblings taken for dishonest
unbiased = dict(a=True, b=False, c=False, d=False, e=False, f=False)
left = 0.75
