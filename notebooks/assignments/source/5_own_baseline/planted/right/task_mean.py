class TaskMean(pl.Baseline):
    name = "task_mean"

    def __init__(self, responses=1):
        super().__init__(responses)
        self.seen = {}

    def advantages(self, rollouts, internals):
        out = rollouts.rewards.clone()
        for i, t in enumerate(rollouts.tasks):
            seen = self.seen.get(t)
            out[i] -= sum(seen) / len(seen) if seen else 0.5
        return out

    def update(self, rollouts, internals):
        for i, t in enumerate(rollouts.tasks):
            self.seen.setdefault(t, []).extend(rollouts.rewards[i].tolist())
