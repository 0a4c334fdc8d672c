# cell: training_rows
# loses: test_rows_example, test_rows
# says: this is the response's own reward
# recognised: the response's own reward
def training_rows(features, rewards):
    return features.reshape(-1, features.shape[-1]), rewards.reshape(-1)
