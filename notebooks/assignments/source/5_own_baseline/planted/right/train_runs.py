import copy


def train_runs(load, make, seeds, folder):
    policy, baseline = load(), make()
    return [
        pl.Trainer(
            copy.deepcopy(policy),
            task,
            copy.deepcopy(baseline),
            dataclasses.replace(CONFIG, seed=s),
            out=folder / "a" / f"{s}",
            progress=False,
        ).run()
        for s in seeds
    ]
