# cell: resumable
# loses: test_resumable
# says: rounded to float32
# recognised: numbers rounded to float32
class Resumable(Tracker):
    def state_dict(self):
        counts = torch.tensor([self.counts[name] for name in sorted(self.counts)])
        return {"value": torch.tensor(self.value), "steps": torch.tensor(self.steps), "counts": counts}

    def load_state_dict(self, state):
        self.value, self.steps = float(state["value"]), int(state["steps"])
        self.counts = dict(zip(sorted(self.counts), state["counts"].tolist(), strict=True))
