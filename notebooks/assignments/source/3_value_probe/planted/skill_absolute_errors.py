# cell: skill
# loses: test_skill_example, test_skill
# says: these are absolute errors; squared
# recognised: absolute errors
def skill(predictions, value):
    return 1 - np.abs(predictions - value).mean() / value.var()
