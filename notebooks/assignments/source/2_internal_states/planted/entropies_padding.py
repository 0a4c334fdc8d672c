# cell: entropies
# loses: test_entropies_example 2, test_entropies 2
# says: padding is counted
# recognised: padding counted
def entropies(entropy, length, reasoning):
    spans = entropy, entropy[:reasoning], entropy[reasoning:]
    return torch.stack([span.mean() if len(span) else torch.tensor(0.0) for span in spans])
