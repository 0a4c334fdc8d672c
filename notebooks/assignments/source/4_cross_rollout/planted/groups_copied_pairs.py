# cell: groups
# loses: test_groups
# says: a row of the first result is a group of M responses
# as for the pairs of the lecture
def groups(prob, M):
    pairs = torch.cartesian_prod(torch.arange(len(prob)), torch.arange(len(prob)))
    return pairs, (prob[:, None] * prob).flatten()
