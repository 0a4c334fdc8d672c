# cell: never_learns
# loses: test_never_learns_example, test_never_learns
# says: by luck such a critic can be a tenth or so better
# recognised: one without a margin for luck
def never_learns(fit):
    critic = new_critic()
    fit(critic, *some_data())
    features, rewards = some_data(seed=9)
    values = torch.sigmoid(critic(features))[:, 0].detach()
    return bool(((values - rewards) ** 2).mean() >= rewards.var(unbiased=False))
