# cell: entropies
# loses: test_entropies_example, test_entropies
# says: these are sums
# recognised: sums
def entropies(entropy, length, reasoning):
    return torch.stack([entropy[:length].sum(), entropy[:reasoning].sum(), entropy[reasoning:length].sum()])
