# cell: token_entropy
# loses: test_entropy_example, test_entropy
# says: this is in bits
# recognised: bits
def token_entropy(logits):
    logprob = logits.log_softmax(-1)
    return -(logprob.exp() * logprob).sum(-1) / torch.tensor(2.0).log()
