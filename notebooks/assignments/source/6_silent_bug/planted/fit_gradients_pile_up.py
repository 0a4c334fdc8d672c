# cell: fit
# loses: test_fit_example, test_fit
# says: gradients pile up
# recognised: gradients that pile up from step to step
def fit(critic, features, rewards, steps=150, learning_rate=0.02):
    optimizer = torch.optim.Adam(critic.parameters(), lr=learning_rate)
    losses = []
    for _ in range(steps):
        loss = ((torch.sigmoid(critic(features))[:, 0] - rewards) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
