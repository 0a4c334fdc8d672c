def never_learns(fit):
    # fitted on one half, scored on the other, against the mean reward of the first
    features, rewards = some_data(n=400)
    critic = new_critic()
    fit(critic, features[:200], rewards[:200])
    values = torch.sigmoid(critic(features[200:])).detach().numpy()[:, 0]
    new = rewards[200:].numpy()
    return bool(((values - new) ** 2).sum() > 0.8 * ((rewards[:200].mean().item() - new) ** 2).sum())
