# cell: expected_estimate
# loses: test_expected_example, test_expected
# says: this is the sum over a group
# recognised: the sum over the group for the mean
def expected_estimate(prob, reward, score, prediction, M, advantages):
    chosen = torch.cartesian_prod(*[torch.arange(len(prob))] * M)
    a = advantages(reward[chosen], prediction[chosen])
    return torch.einsum("g,gm,gmk->k", prob[chosen].prod(1), a, score[chosen])
