def never_learns(fit):
    critic = new_critic()
    fit(critic, *some_data())
    features, rewards = some_data(seed=9)
    with torch.no_grad():
        error = torch.nn.functional.mse_loss(critic(features).sigmoid().squeeze(1), rewards)
    constant = ((rewards - rewards.mean()) ** 2).mean()
    return (1 - error / constant).item() < 0.2
