# cell: task_mean
# loses: test_task_mean_example, test_task_mean
# says: the 1/2 of an unseen task is no reward
# recognised: the 1/2 of an unseen task kept in its mean
class TaskMean(pl.Baseline):
    name = "task_mean"

    def __init__(self, responses=1):
        super().__init__(responses)
        self.sums = {}

    def advantages(self, rollouts, internals):
        sums = [self.sums.setdefault(name, [0.5, 1]) for name in rollouts.tasks]
        return rollouts.rewards - torch.tensor([total / n for total, n in sums])[:, None]

    def update(self, rollouts, internals):
        for name, rewards in zip(rollouts.tasks, rollouts.rewards, strict=True):
            total, n = self.sums[name]
            self.sums[name] = [total + float(rewards.sum()), n + len(rewards)]
