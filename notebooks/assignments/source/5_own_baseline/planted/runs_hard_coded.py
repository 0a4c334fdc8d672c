# cell: train_runs
# loses: test_runs
# says: the seeds is [0. 1.]
# seeds 0, 1, ... whatever is asked for
def train_runs(load, make, seeds, folder):
    records = []
    for seed in range(len(seeds)):
        config = dataclasses.replace(CONFIG, seed=seed)
        records.append(pl.Trainer(load(), task, make(), config, out=folder / f"run-{seed}", progress=False).run())
    return records
