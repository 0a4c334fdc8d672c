def token_entropy(logits):
    # as the library has it, from the logits themselves
    log_norm = logits.logsumexp(-1)
    return log_norm - ((logits - log_norm[:, None]).exp() * logits).sum(-1)
