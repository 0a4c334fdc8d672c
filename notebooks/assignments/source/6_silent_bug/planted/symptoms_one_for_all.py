# cell: symptoms
# loses: test_symptoms
# says: a: a baseline that knows the reward
# recognised: a symptom taken for another bug's
symptoms = dict.fromkeys("abcd", "critic never learns")
