# cell: symptoms
# loses: test_symptoms
# says: b: nothing changes because nothing is learned
# recognised: a symptom taken for another bug's
symptoms = dict(a="target leaks", b="no bug", c="mask off by one", d="no bug")
