# cell: never_learns
# loses: test_never_learns
# says: fooled
# recognised: of whether the values differ
def never_learns(fit):
    # the spread of the values on the data that it was fitted on: it has learned something, but what?
    critic, (features, rewards) = new_critic(), some_data()
    fit(critic, features, rewards)
    return bool(torch.sigmoid(critic(features)).std() < 0.1)
