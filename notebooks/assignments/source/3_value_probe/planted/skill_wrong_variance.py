# cell: skill
# loses: test_skill_example, test_skill
# says: it must be that of the values
# recognised: the variance of the predictions
def skill(predictions, value):
    return 1 - ((predictions - value) ** 2).mean() / predictions.var()
