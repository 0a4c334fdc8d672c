# cell: expected_estimate
# loses: test_expected_example, test_expected
# says: the advantages are not used
# recognised: advantages that are not used
def expected_estimate(prob, reward, score, prediction, M, advantages):
    return torch.einsum("n,nk->k", prob * reward, score)
