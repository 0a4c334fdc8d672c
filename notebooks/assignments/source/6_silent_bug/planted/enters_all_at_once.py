# cell: own_reward_enters
# loses: test_enters
# says: RLOO is accused
# recognised: all rewards changed at once
def own_reward_enters(baselines):
    rewards = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    return not torch.equal(baselines(rewards), baselines(1 - rewards))
