# cell: resumable
# loses: test_resumable_example, test_resumable
# says: AttributeError
# as in poise_lab.baselines.Constant
class Resumable(Tracker):
    def state_dict(self):
        return {"history": self.history}

    def load_state_dict(self, state):
        self.history = state["history"]
