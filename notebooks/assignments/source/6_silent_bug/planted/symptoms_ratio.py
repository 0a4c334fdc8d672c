# cell: symptoms
# loses: test_symptoms
# says: c: the same policy gives the same token the same probability
# recognised: a symptom taken for another bug's
symptoms = dict(a="target leaks", b="critic never learns", c="no bug", d="no bug")
