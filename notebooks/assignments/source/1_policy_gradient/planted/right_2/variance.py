def variance(prob, reward, score, baseline):
    P, N, K = score.shape
    total = 0.0
    for k in range(K):
        mean = square = 0.0
        for x in range(P):
            for y in range(N):
                z = float((reward[x, y] - baseline[x]) * score[x, y, k])
                mean += float(prob[x, y]) / P * z
                square += float(prob[x, y]) / P * z**2
        total += square - mean**2
    return total
