# cell: held_out
# loses: test_held_out
# says: split prompts, not rows
# recognised: rows divided where prompts should be
def held_out(prompt_of_row, share, seed):
    # right only if the two rows of a prompt are neighbours and no prompt comes twice
    pairs = len(prompt_of_row) // 2
    out = np.zeros(pairs, dtype=bool)
    out[np.random.default_rng(seed).permutation(pairs)[: round(share * pairs)]] = True
    return out.repeat(2)
