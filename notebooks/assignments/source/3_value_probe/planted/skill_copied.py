# cell: skill
# loses: test_skill_example, test_skill
# says: this is the correlation
# recognised: the correlation or its square
def skill(predictions, value):
    # what notebook 04 looks at first
    return pl.agreement(predictions, value)["r"]
