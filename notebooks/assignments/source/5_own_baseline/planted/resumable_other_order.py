# cell: resumable
# loses: test_resumable
# says: tasks in another order
# recognised: tasks in another order
class Resumable(Tracker):
    def state_dict(self):
        counts = torch.tensor(sorted(self.counts.values()))
        value = torch.tensor(self.value, dtype=torch.float64)
        return {"value": value, "steps": torch.tensor(self.steps), "counts": counts}

    def load_state_dict(self, state):
        self.value, self.steps = float(state["value"]), int(state["steps"])
        self.counts = dict(zip(sorted(self.counts), state["counts"].tolist(), strict=True))
