# cell: train_runs
# loses: test_runs
# says: make one for each run
# recognised: the seed left out of the config
# the text's line, once for each seed
def train_runs(load, make, seeds, folder):
    policy, baseline, config = load(), make(), CONFIG
    return [pl.Trainer(policy, task, baseline, config, out=folder / str(seed), progress=False).run() for seed in seeds]
