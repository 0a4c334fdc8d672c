# cell: entropies
# loses: test_entropies_example, test_entropies
# says: padding is counted
# recognised: padding counted
def entropies(entropy, length, reasoning):
    spans = entropy, entropy[:reasoning], entropy[reasoning:]
    return torch.stack([span.mean() if len(span) else torch.tensor(0.0) for span in spans])
