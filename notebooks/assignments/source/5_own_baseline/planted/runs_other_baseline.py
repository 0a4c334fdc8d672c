# cell: train_runs
# loses: test_runs
# says: not what `make` gives
# recognised: a baseline that is not what `make` gives
def train_runs(load, make, seeds, folder):
    records = []
    for seed in seeds:
        config, baseline = dataclasses.replace(CONFIG, seed=seed), pl.make_baseline("rloo")
        records.append(pl.Trainer(load(), task, baseline, config, out=folder / f"run-{seed}", progress=False).run())
    return records
