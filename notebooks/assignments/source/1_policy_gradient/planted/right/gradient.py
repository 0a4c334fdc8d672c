def gradient(prob, reward, score):
    return (prob[..., None] * reward[..., None] * score).sum(1).mean(0)
