# cell: train_runs
# loses: test_runs
# says: the seed is left out
# recognised: the seed left out of the config
def train_runs(load, make, seeds, folder):
    outs = [folder / f"run-{seed}" for seed in seeds]
    return [pl.Trainer(load(), task, make(), CONFIG, out=out, progress=False).run() for out in outs]
