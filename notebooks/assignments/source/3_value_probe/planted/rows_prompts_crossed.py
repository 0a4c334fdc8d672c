# cell: training_rows
# loses: test_rows_example, test_rows
# says: prompts are crossed here
# recognised: the reward of another prompt's response
def training_rows(features, rewards):
    return features.reshape(-1, features.shape[-1]), rewards[::-1].reshape(-1)
