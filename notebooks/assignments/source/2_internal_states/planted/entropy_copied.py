# cell: token_entropy
# loses: test_entropy_example, test_entropy
# says: the entropy is
def token_entropy(logits):
    # the library's entropies of the rollouts that the notebook shows, whatever is handed in
    return pl.read_internals(policy, rollouts).token_entropy[0, 0, : len(logits)]
