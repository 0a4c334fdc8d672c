# cell: task_mean
# loses: test_task_mean_example, test_task_mean
# says: rewards of this step are in their own baseline
# recognised: rewards of the present step in its own baseline
class TaskMean(pl.Baseline):
    name = "task_mean"

    def __init__(self, responses=1):
        super().__init__(responses)
        self.sums = {}

    def advantages(self, rollouts, internals):
        seen = {}
        for name, rewards in zip(rollouts.tasks, rollouts.rewards, strict=True):
            total, n = seen.get(name, self.sums.get(name, [0.0, 0]))
            seen[name] = [total + float(rewards.sum()), n + len(rewards)]
        if not self.sums:
            return rollouts.rewards - 0.5
        return rollouts.rewards - torch.tensor([seen[name][0] / seen[name][1] for name in rollouts.tasks])[:, None]

    def update(self, rollouts, internals):
        for name, rewards in zip(rollouts.tasks, rollouts.rewards, strict=True):
            total, n = self.sums.get(name, [0.0, 0])
            self.sums[name] = [total + float(rewards.sum()), n + len(rewards)]
