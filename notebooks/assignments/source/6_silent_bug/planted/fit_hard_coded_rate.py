# cell: fit
# loses: test_fit
# says: `learning_rate` is not used
def fit(critic, features, rewards, steps=150, learning_rate=0.02):
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.02)
    losses = []
    for _ in range(steps):
        loss = ((torch.sigmoid(critic(features))[:, 0] - rewards) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
