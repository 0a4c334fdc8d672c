# cell: task_mean
# loses: test_task_mean
# says: this is a mean of step means
# recognised: a mean of step means
class TaskMean(pl.Baseline):
    name = "task_mean"

    def __init__(self, responses=1):
        super().__init__(responses)
        self.means = {}

    def advantages(self, rollouts, internals):
        means = [self.means.get(name, [0.5]) for name in rollouts.tasks]
        return rollouts.rewards - torch.tensor([sum(m) / len(m) for m in means])[:, None]

    def update(self, rollouts, internals):
        for name in set(rollouts.tasks):
            rows = [r for t, r in zip(rollouts.tasks, rollouts.rewards, strict=True) if t == name]
            self.means.setdefault(name, []).append(float(torch.cat(rows).mean()))
