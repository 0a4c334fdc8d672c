# cell: training_rows
# loses: test_rows_example 1, test_rows 3
# says: prompts are crossed here
# recognised: the reward of another prompt's response
def training_rows(features, rewards):
    return features.reshape(-1, features.shape[-1]), rewards[::-1].reshape(-1)
