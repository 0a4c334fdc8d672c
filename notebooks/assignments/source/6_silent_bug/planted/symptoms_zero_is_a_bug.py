# cell: symptoms
# loses: test_symptoms
# says: d: where both rewards agree
# recognised: a symptom taken for another bug's
symptoms = dict(a="target leaks", b="critic never learns", c="mask off by one", d="critic never learns")
