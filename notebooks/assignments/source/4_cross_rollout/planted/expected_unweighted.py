# cell: expected_estimate
# loses: test_expected_example, test_expected
# says: all groups are weighted alike
# recognised: all groups weighted alike
def expected_estimate(prob, reward, score, prediction, M, advantages):
    chosen = torch.cartesian_prod(*[torch.arange(len(prob))] * M)
    a = advantages(reward[chosen], prediction[chosen])
    return (a[..., None] * score[chosen]).mean((0, 1))
