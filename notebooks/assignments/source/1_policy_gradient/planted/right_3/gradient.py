def gradient(prob, reward, score):
    P, N, K = score.shape
    return [sum(float(prob[x, y] * reward[x, y] * score[x, y, k]) for x in range(P) for y in range(N)) / P for k in range(K)]
