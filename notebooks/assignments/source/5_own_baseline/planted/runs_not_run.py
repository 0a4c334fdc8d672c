# cell: train_runs
# loses: test_runs_example 1, test_runs 3
# says: what `run()` returns
# recognised: trainers that do not run
def train_runs(load, make, seeds, folder):
    trainers = []
    for seed in seeds:
        config = dataclasses.replace(CONFIG, seed=seed)
        trainers.append(pl.Trainer(load(), task, make(), config, out=folder / f"run-{seed}", progress=False))
    return trainers
