# cell: groups
# loses: test_groups_example, test_groups
# says: groups without repetition
# recognised: groups without repetition
def groups(prob, M):
    chosen = torch.tensor(list(itertools.permutations(range(len(prob)), M))).view(-1, M)
    return chosen, prob[chosen].prod(1)
