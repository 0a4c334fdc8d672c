# cell: resumable
# loses: test_resumable_example 1, test_resumable 3
# says: AttributeError
# as in poise_lab.baselines.Constant
class Resumable(Tracker):
    def state_dict(self):
        return {"history": self.history}

    def load_state_dict(self, state):
        self.history = state["history"]
