# cell: groups
# loses: test_groups_example, test_groups
# says: all groups are equally likely
# recognised: all groups equally likely
def groups(prob, M):
    chosen = torch.tensor(list(itertools.product(range(len(prob)), repeat=M)))
    return chosen, torch.full((len(chosen),), 1 / len(chosen), dtype=prob.dtype)
