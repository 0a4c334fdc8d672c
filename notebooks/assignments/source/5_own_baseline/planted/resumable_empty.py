# cell: resumable
# loses: test_resumable_example, test_resumable
# says: the state is empty
# recognised: a state that is empty
class Resumable(Tracker):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
