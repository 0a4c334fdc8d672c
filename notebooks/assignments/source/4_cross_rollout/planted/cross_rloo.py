# cell: cross_advantages
# loses: test_cross_example, test_cross
# says: these are the siblings' rewards (RLOO)
# recognised: the siblings' rewards for their predictions
def cross_advantages(rewards, values):
    return rewards - (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
