# cell: groups
# loses: test_groups_example, test_groups
# says: probabilities are added
# recognised: probabilities that are added
def groups(prob, M):
    chosen = torch.tensor(list(itertools.product(range(len(prob)), repeat=M)))
    return chosen, prob[chosen].sum(1)
