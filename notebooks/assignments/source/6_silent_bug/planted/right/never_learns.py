def never_learns(fit):
    features, rewards = some_data()
    critic = new_critic()
    fit(critic, features, rewards)
    with torch.no_grad():
        values = critic(features).sigmoid().squeeze(-1)
    return bool(((values - rewards) ** 2).mean() >= 0.95 * ((rewards - rewards.mean()) ** 2).mean())
