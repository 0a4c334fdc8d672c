# cell: token_entropy
# loses: test_entropy_example, test_entropy
# says: the sign is wrong
# recognised: the sign
def token_entropy(logits):
    logprob = logits.log_softmax(-1)
    return (logprob.exp() * logprob).sum(-1)
