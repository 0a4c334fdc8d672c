# cell: training_rows
# loses: test_rows_example, test_rows
# says: including the response itself
# recognised: the mean of the pair
def training_rows(features, rewards):
    return features.reshape(-1, features.shape[-1]), rewards.mean(1).repeat(2)
