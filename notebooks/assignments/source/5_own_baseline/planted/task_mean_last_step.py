# cell: task_mean
# loses: test_task_mean
# says: only the last step counts
# recognised: the last step alone
class TaskMean(pl.Baseline):
    name = "task_mean"

    def __init__(self, responses=1):
        super().__init__(responses)
        self.means = {}

    def advantages(self, rollouts, internals):
        return rollouts.rewards - torch.tensor([self.means.get(name, 0.5) for name in rollouts.tasks])[:, None]

    def update(self, rollouts, internals):
        for name in set(rollouts.tasks):
            rows = [r for t, r in zip(rollouts.tasks, rollouts.rewards, strict=True) if t == name]
            self.means[name] = float(torch.cat(rows).mean())
