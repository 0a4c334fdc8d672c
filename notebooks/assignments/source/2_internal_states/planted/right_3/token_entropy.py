def token_entropy(logits):
    import math

    entropies = []
    for row in logits.tolist():
        weights = [math.exp(v - max(row)) for v in row]
        probs = [w / sum(weights) for w in weights]
        entropies.append(-sum(p * math.log(p) for p in probs if p > 0))
    return entropies
