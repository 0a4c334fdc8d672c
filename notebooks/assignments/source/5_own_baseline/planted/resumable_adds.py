# cell: resumable
# loses: test_resumable
# says: what is loaded is added to what was there
# recognised: numbers added to those that were there
class Resumable(Tracker):
    def state_dict(self):
        counts = torch.tensor(list(self.counts.values()))
        value = torch.tensor(self.value, dtype=torch.float64)
        return {"value": value, "steps": torch.tensor(self.steps), "counts": counts}

    def load_state_dict(self, state):
        self.value, self.steps = float(state["value"]), int(state["steps"])
        for name, n in zip(self.counts, state["counts"].tolist(), strict=True):
            self.counts[name] += n
