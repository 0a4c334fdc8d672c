# cell: own_reward_enters
# loses: test_enters
# says: RLOO is accused for a rounding error
# recognised: a rounding error taken for a leak
def own_reward_enters(baselines):
    rewards = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    before = baselines(rewards)
    for i in range(5):
        for j in range(4):
            for value in (0.0, 1.0):
                changed = rewards.clone()
                changed[i, j] = value
                if baselines(changed)[i, j] != before[i, j]:
                    return True
    return False
