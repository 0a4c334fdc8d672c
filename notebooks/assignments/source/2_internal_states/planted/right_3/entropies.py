def entropies(entropy, length, reasoning):
    parts = entropy[:length], entropy[:reasoning], entropy[reasoning:length]
    return torch.stack([part.double().mean() for part in parts]).nan_to_num()
