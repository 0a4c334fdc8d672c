# cell: own_reward_enters
# loses: test_enters
# says: a constant is accused
# recognised: one that says the same to all
def own_reward_enters(baselines):
    return True
