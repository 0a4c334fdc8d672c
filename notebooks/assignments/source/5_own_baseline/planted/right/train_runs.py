def train_runs(load, make, seeds, folder):
    from copy import copy

    out = []
    for k, seed in enumerate(seeds):
        policy, baseline, config = load(), make(), copy(CONFIG)
        config.seed = seed
        out += [pl.Trainer(policy, task, baseline, config, out=str(folder / str(k)), progress=False).run()]
    return out
