# cell: resumable
# loses: test_resumable_example 1, test_resumable 3
# says: the state is empty
# recognised: a state that is empty
class Resumable(Tracker):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
