# cell: held_out
# loses: test_held_out
# says: this is the share that is kept
# recognised: the share that is kept
def held_out(prompt_of_row, share, seed):
    prompts = np.unique(prompt_of_row)
    return np.isin(prompt_of_row, np.random.default_rng(seed).permutation(prompts)[round(share * len(prompts)) :])
