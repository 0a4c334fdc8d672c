# cell: symptoms
# loses: test_symptoms 3
# says: a: a baseline that knows the reward
symptoms = dict.fromkeys("abcd", "critic never learns")
