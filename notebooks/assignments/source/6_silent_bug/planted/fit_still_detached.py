# cell: fit
# loses: test_fit_example, test_fit
# says: no weight of the critic has changed
# recognised: weights that do not change
def fit(critic, features, rewards, steps=150, learning_rate=0.02):
    optimizer = torch.optim.Adam(critic.parameters(), lr=learning_rate)
    losses = []
    for _ in range(steps):
        values = torch.sigmoid(critic(features))[:, 0].detach()
        loss = ((values - rewards) ** 2).mean().requires_grad_()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
