# cell: own_reward_enters
# loses: test_enters
# says: only the very last response leaks
# recognised: only the first response tried
def own_reward_enters(baselines):
    rewards = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    for value in (0.0, 1.0):
        changed = rewards.clone()
        changed[0, 0] = value
        if not torch.equal(baselines(rewards)[0, 0], baselines(changed)[0, 0]):
            return True
    return False
