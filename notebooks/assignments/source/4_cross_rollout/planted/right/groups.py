def groups(prob, M):
    grids = torch.meshgrid(*[torch.arange(len(prob))] * M, indexing="ij")
    chosen = torch.stack([g.flatten() for g in grids], 1).flip(0)
    p = torch.ones(len(chosen), dtype=prob.dtype)
    for k in range(M):
        p = p * prob[chosen[:, k]]
    return chosen, p
