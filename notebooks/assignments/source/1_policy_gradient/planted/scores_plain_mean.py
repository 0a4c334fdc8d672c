# cell: scores
# loses: test_scores_example, test_scores
# says: their mean under the policy
# recognised: their plain mean taken off
def scores(features, prob):
    return features - features.mean(1, keepdim=True)
