# cell: fit
# loses: test_fit_example, test_fit
# says: (n, 1) minus (n,) is (n, n)
# recognised: values of shape (n, 1) minus rewards of shape (n,), which is (n, n)
def fit(critic, features, rewards, steps=150, learning_rate=0.02):
    optimizer = torch.optim.Adam(critic.parameters(), lr=learning_rate)
    losses = []
    for _ in range(steps):
        loss = ((torch.sigmoid(critic(features)) - rewards) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
