# cell: task_mean
# loses: test_task_mean 4
# says: four steps of several tasks
class TaskMean(pl.Baseline):
    name = "task_mean"

    def advantages(self, rollouts, internals):
        return rollouts.rewards - 0.5
