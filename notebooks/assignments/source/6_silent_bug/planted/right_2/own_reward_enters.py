def own_reward_enters(baselines):
    rewards = torch.arange(1.0, 21.0).reshape(5, 4) / 40
    for k in range(rewards.numel()):
        higher = rewards.clone()
        higher.view(-1)[k] += 0.5
        if not torch.isclose(baselines(rewards).reshape(-1)[k], baselines(higher).reshape(-1)[k]):
            return True
    return False
