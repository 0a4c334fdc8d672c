# cell: scores
# loses: test_scores_example 1, test_scores 3
# says: their mean under the policy
def scores(features, prob):
    return features - features.mean(1, keepdim=True)
