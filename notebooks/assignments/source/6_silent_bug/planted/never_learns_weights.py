# cell: never_learns
# loses: test_never_learns
# says: its weights change and its loss falls
# recognised: a check of the weights alone
def never_learns(fit):
    critic = new_critic()
    before = copy.deepcopy(critic.state_dict())
    fit(critic, *some_data())
    return all(torch.equal(v, before[k]) for k, v in critic.state_dict().items())
