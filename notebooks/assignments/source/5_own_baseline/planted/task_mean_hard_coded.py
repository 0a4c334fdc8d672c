# cell: task_mean
# loses: test_task_mean_example, test_task_mean
# says: nothing has been learned from the first step
# recognised: nothing learned
class TaskMean(pl.Baseline):
    name = "task_mean"

    def advantages(self, rollouts, internals):
        return rollouts.rewards - 0.5
