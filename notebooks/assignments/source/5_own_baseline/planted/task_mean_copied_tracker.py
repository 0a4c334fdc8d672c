# cell: task_mean
# loses: test_task_mean_example, test_task_mean
# says: the 1/2 of an unseen task is no step
# recognised: the 1/2 of an unseen task kept in its mean
# the Tracker of exercise 2
class TaskMean(pl.Baseline):
    name = "task_mean"

    def __init__(self, responses=1):
        super().__init__(responses)
        self.value, self.steps = 0.5, 0

    def advantages(self, rollouts, internals):
        return rollouts.rewards - self.value

    def update(self, rollouts, internals):
        self.steps += 1
        self.value += (float(rollouts.rewards.double().mean()) - self.value) / (self.steps + 1)
