def held_out(prompt_of_row, share, seed):
    import random
    prompts = sorted(set(prompt_of_row.tolist()))
    out = set(random.Random(seed).sample(prompts, int(round(share * len(prompts)))))
    return np.array([p in out for p in prompt_of_row.tolist()])
