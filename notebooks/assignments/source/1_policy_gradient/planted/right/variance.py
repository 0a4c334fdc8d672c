def variance(prob, reward, score, baseline):
    total = 0
    z = (reward - baseline.view(-1, 1)).unsqueeze(-1) * score
    w = prob / prob.shape[0]
    mean = (w.unsqueeze(-1) * z).sum((0, 1))
    return float((w * ((z - mean) ** 2).sum(-1)).sum())
