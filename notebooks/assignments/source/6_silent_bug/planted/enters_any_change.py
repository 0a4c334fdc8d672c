# cell: own_reward_enters
# loses: test_enters
# says: RLOO is accused
# recognised: any change taken for a leak
def own_reward_enters(baselines):
    rewards = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    changed = rewards.clone()
    changed[0, 0] = 1 - changed[0, 0]
    return not torch.equal(baselines(rewards), baselines(changed))
