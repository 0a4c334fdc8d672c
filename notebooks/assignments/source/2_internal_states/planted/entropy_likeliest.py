# cell: token_entropy
# loses: test_entropy_example, test_entropy
# says: the likeliest token
# recognised: the log-probability of the likeliest token
def token_entropy(logits):
    return -logits.log_softmax(-1).max(-1).values
