def logit_mask(prompts, responses, T):
    mask = torch.zeros(len(prompts), T, dtype=torch.bool)
    for i, (p, n) in enumerate(zip(prompts.tolist(), responses.tolist())):
        mask[i, p - 1 : p - 1 + n] = True
    return mask
