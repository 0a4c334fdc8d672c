# cell: resumable
# loses: test_resumable
# says: nothing that is kept beside them
# recognised: what is kept beside the state
class Resumable(Tracker):
    kept = {}

    def state_dict(self):
        Resumable.kept = dict(value=self.value, steps=self.steps, counts=dict(self.counts))
        return {"saved": torch.tensor(1)}

    def load_state_dict(self, state):
        self.value, self.steps, self.counts = self.kept["value"], self.kept["steps"], dict(self.kept["counts"])
