# cell: entropies
# loses: test_entropies_example, test_entropies
# says: the entropies is
def entropies(entropy, length, reasoning):
    # the library's three means of the first rollout that the notebook shows, whatever is handed in
    return pl.read_internals(policy, rollouts).entropy[0, 0]
