# cell: others_mean
# loses: test_others_example, test_others
# says: there are M - 1 others
# recognised: the right sum divided by M
def others_mean(x):
    return (x.sum(1, keepdim=True) - x) / x.shape[1]
