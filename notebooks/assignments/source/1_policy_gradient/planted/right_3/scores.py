def scores(features, prob):
    import numpy as np

    f, p = features.numpy().astype("float32"), prob.numpy().astype("float32")
    return f - np.einsum("xn,xnk->xk", p, f)[:, None]
