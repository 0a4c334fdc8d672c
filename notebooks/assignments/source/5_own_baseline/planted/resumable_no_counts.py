# cell: resumable
# loses: test_resumable
# says: how often each task came is forgotten
# recognised: counts forgotten
class Resumable(Tracker):
    def state_dict(self):
        return {"value": torch.tensor(self.value, dtype=torch.float64), "steps": torch.tensor(self.steps)}

    def load_state_dict(self, state):
        self.value, self.steps = float(state["value"]), int(state["steps"])
