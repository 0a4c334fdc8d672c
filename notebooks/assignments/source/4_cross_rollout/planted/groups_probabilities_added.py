# cell: groups
# loses: test_groups_example 1, test_groups 3
# says: probabilities are added
# recognised: probabilities that are added
def groups(prob, M):
    chosen = torch.tensor(list(itertools.product(range(len(prob)), repeat=M)))
    return chosen, prob[chosen].sum(1)
