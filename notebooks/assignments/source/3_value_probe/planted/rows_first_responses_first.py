# cell: training_rows
# loses: test_rows_example, test_rows
# says: the responses are not in order, prompt by prompt
# recognised: first responses before second ones
def training_rows(features, rewards):
    return np.concatenate([features[:, 0], features[:, 1]]), np.concatenate([rewards[:, 1], rewards[:, 0]])
