# cell: scores
# loses: test_scores_example 1, test_scores 3
# says: these are the features themselves
# recognised: the features themselves
def scores(features, prob):
    return features
