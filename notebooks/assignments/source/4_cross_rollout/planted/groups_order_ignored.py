# cell: groups
# loses: test_groups_example, test_groups
# says: the order is ignored
# recognised: groups in which the order is ignored
def groups(prob, M):
    chosen = torch.tensor(list(itertools.combinations_with_replacement(range(len(prob)), M)))
    return chosen, prob[chosen].prod(1)
