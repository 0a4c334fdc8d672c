# cell: scores
# loses: test_scores
# says: a normalising constant of its own
# recognised: one mean for all prompts
def scores(features, prob):
    return features - (prob[..., None] * features).sum((0, 1)) / len(prob)
