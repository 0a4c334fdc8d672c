# cell: held_out
# loses: test_held_out
# says: neighbours in the list of prompts
# recognised: neighbours instead of random ones
def held_out(prompt_of_row, share, seed):
    prompts = np.roll(np.unique(prompt_of_row), seed)
    return np.isin(prompt_of_row, prompts[: round(share * len(prompts))])
