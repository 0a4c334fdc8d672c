# cell: resumable
# loses: test_resumable_example, test_resumable
# says: only tensors survive
# recognised: values that are no tensors
class Resumable(Tracker):
    def state_dict(self):
        return {"value": self.value, "steps": self.steps, "counts": self.counts}

    def load_state_dict(self, state):
        self.value, self.steps, self.counts = state["value"], state["steps"], dict(state["counts"])
