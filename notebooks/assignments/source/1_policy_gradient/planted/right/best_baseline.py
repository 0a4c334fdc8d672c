def best_baseline(prob, reward, score):
    # one step of Newton's method, which is enough for a parabola
    b = torch.zeros(len(prob), dtype=prob.dtype, requires_grad=True)
    second = ((prob * (reward - b[:, None]) ** 2)[..., None] * score**2).sum()
    (slope,) = torch.autograd.grad(second, b, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), b)
    return b - slope / bend
