# cell: expected_estimate
# loses: test_expected_example 2, test_expected 3
# says: the expectation, minus the group's mean
def expected_estimate(prob, reward, score, prediction, M, advantages):
    return torch.einsum("n,nk->k", prob * reward, score)
