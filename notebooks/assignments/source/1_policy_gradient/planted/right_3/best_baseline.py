def best_baseline(prob, reward, score):
    best = []
    for x in range(len(prob)):
        weights = [float(p) * sum(float(v) ** 2 for v in s) for p, s in zip(prob[x], score[x])]
        best.append(sum(w * float(r) for w, r in zip(weights, reward[x])) / sum(weights))
    return best
