def entropies(entropy, length, reasoning):
    mean = lambda x: x.mean().item() if x.numel() else 0.0
    return [mean(entropy[:length]), mean(entropy[:reasoning]), mean(entropy[reasoning:length])]
