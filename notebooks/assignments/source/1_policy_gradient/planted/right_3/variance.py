def variance(prob, reward, score, baseline):
    z = ((reward - baseline[:, None])[..., None] * score).flatten(0, 1)
    covariance = torch.cov(z.T, correction=0, aweights=prob.flatten())
    return covariance.trace() if z.shape[1] > 1 else covariance
