# cell: entropies
# loses: test_entropies
# says: an answer that is missing
# recognised: NaN for a missing answer
def entropies(entropy, length, reasoning):
    return torch.stack([entropy[:length].mean(), entropy[:reasoning].mean(), entropy[reasoning:length].mean()])
