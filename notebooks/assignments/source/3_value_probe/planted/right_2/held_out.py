def held_out(prompt_of_row, share, seed):
    prompts = torch.tensor(np.unique(prompt_of_row))
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed))
    return torch.isin(torch.tensor(prompt_of_row), prompts[order[: int(share * len(prompts) + 0.5)]])
