import numpy as np

unbiased = {k: np.bool_(k in "ade") for k in "fedcba"}
left = torch.tensor(3) / 4
