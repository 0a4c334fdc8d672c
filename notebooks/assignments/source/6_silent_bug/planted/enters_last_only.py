# cell: own_reward_enters
# loses: test_enters
# says: overlooked: only one response leaks
# recognised: only the first response tried
def own_reward_enters(baselines):
    rewards = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    changed = rewards.clone()
    changed[-1, -1] = 1.0
    return bool(baselines(rewards)[-1, -1] != baselines(changed)[-1, -1])
