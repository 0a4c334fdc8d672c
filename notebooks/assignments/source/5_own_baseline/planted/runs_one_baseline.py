# cell: train_runs
# loses: test_runs
# says: make one for each run
# recognised: one baseline for all
def train_runs(load, make, seeds, folder):
    baseline, records = make(), []
    for seed in seeds:
        config = dataclasses.replace(CONFIG, seed=seed)
        records.append(pl.Trainer(load(), task, baseline, config, out=folder / f"run-{seed}", progress=False).run())
    return records
