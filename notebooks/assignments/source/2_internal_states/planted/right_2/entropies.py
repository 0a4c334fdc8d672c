def entropies(entropy, length, reasoning):
    summed = torch.cat([torch.zeros(1), entropy.cumsum(0)])
    return [(summed[b] - summed[a]) / max(1, b - a) for a, b in ((0, length), (0, reasoning), (reasoning, length))]
