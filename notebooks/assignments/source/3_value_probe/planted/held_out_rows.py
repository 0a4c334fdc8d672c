# cell: held_out
# loses: test_held_out_example, test_held_out
# says: split prompts, not rows
# recognised: rows divided where prompts should be
def held_out(prompt_of_row, share, seed):
    n = len(prompt_of_row)
    out = np.zeros(n, dtype=bool)
    out[np.random.default_rng(seed).permutation(n)[: round(share * n)]] = True
    return out
