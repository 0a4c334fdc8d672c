# cell: skill
# loses: test_skill_example 1, test_skill 2
# says: this is the correlation
# recognised: the correlation or its square
def skill(predictions, value):
    # what notebook 04 looks at first
    return pl.agreement(predictions, value)["r"]
