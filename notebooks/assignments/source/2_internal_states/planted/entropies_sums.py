# cell: entropies
# loses: test_entropies_example 2, test_entropies 2
# says: these are sums
# recognised: sums
def entropies(entropy, length, reasoning):
    return torch.stack([entropy[:length].sum(), entropy[:reasoning].sum(), entropy[reasoning:length].sum()])
