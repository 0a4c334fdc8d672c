# cell: held_out
# loses: test_held_out
# says: prompts that were drawn more often are held out more often
# recognised: prompts that were drawn more often held out more often
def held_out(prompt_of_row, share, seed):
    rows = np.random.default_rng(seed).permutation(prompt_of_row)
    prompts = list(dict.fromkeys(rows.tolist()))  # in the order in which one of their rows comes first
    return np.isin(prompt_of_row, prompts[: round(share * len(prompts))])
