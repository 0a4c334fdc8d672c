# cell: scores
# loses: test_scores_example, test_scores
# says: their mean under the policy
# recognised: their plain mean taken off
def scores(features, prob):
    # the line of small_policy; theta is not at hand, so it is taken as zero, where all responses are equally likely
    theta = torch.zeros(features.shape[-1], dtype=features.dtype)
    return torch.autograd.functional.jacobian(lambda t: (features @ t).log_softmax(1), theta)
