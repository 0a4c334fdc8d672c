# cell: train_runs
# loses: test_runs
# says: the seeds has shape
def train_runs(load, make, seeds, folder):
    config = dataclasses.replace(CONFIG, seed=seeds[0]) if seeds else None
    return [pl.Trainer(load(), task, make(), config, out=folder / "run", progress=False).run()] if seeds else []
