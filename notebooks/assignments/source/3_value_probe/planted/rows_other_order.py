# cell: training_rows
# loses: test_rows_example, test_rows
# says: the targets are not in the order of the rows
# recognised: rows and targets in different orders
def training_rows(features, rewards):
    return features.reshape(-1, features.shape[-1]), np.concatenate([rewards[:, 1], rewards[:, 0]])
