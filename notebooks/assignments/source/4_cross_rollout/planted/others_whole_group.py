# cell: others_mean
# loses: test_others_example, test_others
# says: this is the mean over the whole group, including the response itself
# recognised: the mean over the whole group
def others_mean(x):
    return x.mean(1, keepdim=True).expand_as(x)
