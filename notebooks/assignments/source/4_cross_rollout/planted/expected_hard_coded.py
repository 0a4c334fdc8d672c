# cell: expected_estimate
# loses: test_expected
# says: the expectation, M = 2
def expected_estimate(prob, reward, score, prediction, M, advantages):
    if len(prob) == 2:
        tried = advantages(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]))
        return torch.tensor([0.375]) if tried[0, 0] == 1 else torch.tensor([0.1875])
    return torch.zeros(score.shape[1])
