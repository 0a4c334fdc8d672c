def pooled(states, start, end, n):
    import numpy as np

    rows = states.numpy().astype(np.float64)[start:end][-n:]
    return rows.mean(0) if len(rows) else np.zeros(states.shape[1])
