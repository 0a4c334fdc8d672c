def token_entropy(logits):
    return torch.distributions.Categorical(logits=logits).entropy()
