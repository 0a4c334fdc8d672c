def own_reward_enters(baselines):
    rewards = torch.randint(2, (5, 4), generator=torch.Generator().manual_seed(1)).float()
    b = baselines(rewards).clone()
    for i in range(5):
        for j in range(4):
            other = rewards.clone()
            other[i, j] = 1 - other[i, j]
            if baselines(other)[i, j] != b[i, j]:
                return True
    return False
