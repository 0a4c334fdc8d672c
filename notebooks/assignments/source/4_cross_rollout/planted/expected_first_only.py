# cell: expected_estimate
# loses: test_expected
# says: only the first response
# recognised: only the first response of each group
def expected_estimate(prob, reward, score, prediction, M, advantages):
    chosen = torch.cartesian_prod(*[torch.arange(len(prob))] * M)
    a = advantages(reward[chosen], prediction[chosen])
    return torch.einsum("g,g,gk->k", prob[chosen].prod(1), a[:, 0], score[chosen[:, 0]])
