# cell: own_reward_enters
# loses: test_enters_example, test_enters
# says: the check does not say so
# recognised: one that says the same to all
def own_reward_enters(baselines):
    return False
