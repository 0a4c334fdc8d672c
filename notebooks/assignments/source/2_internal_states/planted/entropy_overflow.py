# cell: token_entropy
# loses: test_entropy
# says: exp of large logits is infinite
# recognised: NaN or infinity for large logits
def token_entropy(logits):
    weight = logits.exp()
    prob = weight / weight.sum(-1, keepdim=True)
    return -(prob * prob.log()).sum(-1)
