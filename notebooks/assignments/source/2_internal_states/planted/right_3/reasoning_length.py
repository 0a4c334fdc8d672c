def reasoning_length(ids, tag):
    import numpy as np

    if len(ids) < len(tag):
        return len(ids)
    found = np.flatnonzero((np.lib.stride_tricks.sliding_window_view(np.array(ids), len(tag)) == tag).all(1))
    return found[-1] + len(tag) if len(found) else len(ids)
