# cell: task_mean
# loses: test_task_mean
# says: this is one mean for all tasks
# recognised: one mean for all tasks
class TaskMean(pl.Baseline):
    name = "task_mean"

    def __init__(self, responses=1):
        super().__init__(responses)
        self.total, self.n = 0.0, 0

    def advantages(self, rollouts, internals):
        return rollouts.rewards - (self.total / self.n if self.n else 0.5)

    def update(self, rollouts, internals):
        self.total += float(rollouts.rewards.sum())
        self.n += rollouts.rewards.numel()
