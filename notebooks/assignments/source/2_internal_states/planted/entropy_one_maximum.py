# cell: token_entropy
# loses: test_entropy
# says: logits whose size differs from token to token
# recognised: NaN or infinity for large logits
def token_entropy(logits):
    z = logits - logits.max()  # the largest of all tokens, not of each
    logprob = z - z.exp().sum(-1, keepdim=True).log()
    return -(logprob.exp() * logprob).sum(-1)
