# cell: symptoms
# loses: test_symptoms
# says: a: a baseline that knows the reward
# recognised: a symptom taken for another bug's
symptoms = dict(a="no bug", b="critic never learns", c="mask off by one", d="no bug")
