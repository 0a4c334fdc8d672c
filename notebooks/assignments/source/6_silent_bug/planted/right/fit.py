def fit(critic, features, rewards, steps=150, learning_rate=0.02):
    opt = torch.optim.Adam(critic.parameters(), lr=learning_rate)
    history = []
    for step in range(steps):
        opt.zero_grad()
        loss = torch.nn.functional.mse_loss(critic(features).squeeze(-1).sigmoid(), rewards)
        history.append(loss.item())
        loss.backward()
        opt.step()
    return history
