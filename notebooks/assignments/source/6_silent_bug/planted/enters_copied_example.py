# cell: own_reward_enters
# loses: test_enters
# says: overlooked: only the very last response leaks
# the test's own leak, and no other
def own_reward_enters(baselines):
    rewards = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    return torch.allclose(baselines(rewards), rewards.mean(1, keepdim=True).expand_as(rewards))
