# cell: never_learns
# loses: test_never_learns
# says: fooled: here the rewards belong to other rows
# recognised: of whether the values differ
# the first lines of the test of exercise 1
def never_learns(fit):
    critic = new_critic()
    before = copy.deepcopy(critic.state_dict())
    fit(critic, *some_data())
    changed = any(not torch.equal(v, before[k]) for k, v in critic.state_dict().items())
    values = torch.sigmoid(critic(some_data(seed=9)[0]))[:, 0].detach()
    return not (changed and bool(values.std() > 0.05))
