# cell: held_out
# loses: test_held_out
# says: these are the last prompts
# recognised: the last prompts instead of random ones
def held_out(prompt_of_row, share, seed):
    # notebook 04 takes the last prompts of its list
    prompts = np.unique(prompt_of_row)
    return np.isin(prompt_of_row, prompts[-round(share * len(prompts)) :])
