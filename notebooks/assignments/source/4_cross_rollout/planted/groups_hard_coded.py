# cell: groups
# loses: test_groups
# says: groups are missing
def groups(prob, M):
    chosen = torch.tensor([[0] * M, [0] * (M - 1) + [1], [1] + [0] * (M - 1), [1] * M])
    return chosen, prob[chosen].prod(1)
