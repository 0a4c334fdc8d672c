# cell: held_out
# loses: test_held_out
# says: rounded down
# recognised: a number that is rounded down or up
def held_out(prompt_of_row, share, seed):
    prompts = np.unique(prompt_of_row)
    return np.isin(prompt_of_row, np.random.default_rng(seed).permutation(prompts)[: int(share * len(prompts))])
