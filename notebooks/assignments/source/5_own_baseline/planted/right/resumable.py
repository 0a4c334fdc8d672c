class Resumable(Tracker):
    def state_dict(self):
        state = {f"counts/{k}": torch.tensor(v) for k, v in self.counts.items()}
        return state | {"value": torch.tensor([self.value], dtype=torch.double), "steps": torch.tensor([self.steps])}

    def load_state_dict(self, state):
        self.value, self.steps = state["value"].item(), state["steps"].item()
        self.counts = {k.split("/")[1]: v.item() for k, v in state.items() if "/" in k}
