def fit(critic, features, rewards, steps=150, learning_rate=0.02):
    # a list of tensors, each with its gradient
    optimizer = torch.optim.Adam(critic.parameters(), lr=learning_rate)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ((critic(features).flatten().sigmoid() - rewards) ** 2).mean()
        losses.append(loss)
        loss.backward()
        optimizer.step()
    return losses
