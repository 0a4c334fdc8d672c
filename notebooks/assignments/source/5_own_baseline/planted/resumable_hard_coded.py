# cell: resumable
# loses: test_resumable
# says: how often each task came is forgotten
class Resumable(Tracker):
    def state_dict(self):
        return {"value": torch.tensor(0.75), "steps": torch.tensor(2)}

    def load_state_dict(self, state):
        self.value, self.steps = 0.75, 2
