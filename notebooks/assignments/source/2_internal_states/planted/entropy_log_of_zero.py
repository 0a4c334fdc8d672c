# cell: token_entropy
# loses: test_entropy
# says: 0 times the logarithm of 0 is NaN
# recognised: NaN or infinity for large logits
def token_entropy(logits):
    prob = logits.softmax(-1)
    return -(prob * prob.log()).sum(-1)
