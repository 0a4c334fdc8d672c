# cell: scores
# loses: test_scores_example, test_scores
# says: these are the features themselves
# recognised: the features themselves
def scores(features, prob):
    return features
