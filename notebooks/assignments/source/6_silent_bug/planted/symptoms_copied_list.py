# cell: symptoms
# loses: test_symptoms
# says: a: a baseline that knows the reward
# recognised: a symptom taken for another bug's
# the names in the order of the text
symptoms = dict(zip("abcd", ["critic never learns", "mask off by one", "target leaks", "no bug"], strict=True))
