# cell: task_mean
# loses: test_task_mean
# says: advantages must not change the baseline
# recognised: learning in `advantages`
class TaskMean(pl.Baseline):
    name = "task_mean"

    def __init__(self, responses=1):
        super().__init__(responses)
        self.sums = {}

    def advantages(self, rollouts, internals):
        sums = [self.sums.get(name, [0.5, 1]) for name in rollouts.tasks]
        found = rollouts.rewards - torch.tensor([total / n for total, n in sums])[:, None]
        for name, rewards in zip(rollouts.tasks, rollouts.rewards, strict=True):
            total, n = self.sums.get(name, [0.0, 0])
            self.sums[name] = [total + float(rewards.sum()), n + len(rewards)]
        return found
