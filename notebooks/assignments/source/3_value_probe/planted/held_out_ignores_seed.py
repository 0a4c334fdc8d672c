# cell: held_out
# loses: test_held_out
# says: is the seed used?
# recognised: the same prompts held out for every seed
def held_out(prompt_of_row, share, seed):
    prompts = np.unique(prompt_of_row)
    return np.isin(prompt_of_row, prompts[: round(share * len(prompts))])
