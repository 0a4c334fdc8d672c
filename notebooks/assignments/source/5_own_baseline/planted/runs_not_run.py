# cell: train_runs
# loses: test_runs_example, test_runs
# says: what `run()` returns
# recognised: trainers that do not run
def train_runs(load, make, seeds, folder):
    trainers = []
    for seed in seeds:
        config = dataclasses.replace(CONFIG, seed=seed)
        trainers.append(pl.Trainer(load(), task, make(), config, out=folder / f"run-{seed}", progress=False))
    return trainers
