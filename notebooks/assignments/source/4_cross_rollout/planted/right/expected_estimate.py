def expected_estimate(prob, reward, score, prediction, M, advantages):
    total = torch.zeros(score.shape[1], dtype=score.dtype)
    for g in itertools.product(range(len(prob)), repeat=M):
        g = list(g)
        a = advantages(reward[g][None], prediction[g][None])[0]
        total += prob[g].prod() * (a[:, None] * score[g]).mean(0)
    return total
