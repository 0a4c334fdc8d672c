def groups(prob, M):
    c = list(itertools.product(range(len(prob)), repeat=M))
    return c, [torch.stack([prob[i] for i in g]).prod() for g in c]
