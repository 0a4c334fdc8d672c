# cell: train_runs
# loses: test_runs
# says: one policy for all runs
# recognised: one policy for all runs
def train_runs(load, make, seeds, folder):
    policy, records = load(), []
    for seed in seeds:
        config = dataclasses.replace(CONFIG, seed=seed)
        records.append(pl.Trainer(policy, task, make(), config, out=folder / f"run-{seed}", progress=False).run())
    return records
