def scores(features, prob):
    out = torch.zeros_like(features)
    for x in range(len(prob)):
        mean = sum(prob[x, y] * features[x, y] for y in range(prob.shape[1]))
        for y in range(prob.shape[1]):
            out[x, y] = features[x, y] - mean
    return out
