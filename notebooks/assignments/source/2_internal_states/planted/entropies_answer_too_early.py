# cell: entropies
# loses: test_entropies_example, test_entropies
# says: the answer begins behind
# recognised: an answer that begins too early
def entropies(entropy, length, reasoning):
    spans = entropy[:length], entropy[:reasoning], entropy[max(0, reasoning - 1) : length]
    return torch.stack([span.mean() if len(span) else torch.tensor(0.0) for span in spans])
