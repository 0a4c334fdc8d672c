# cell: skill
# loses: test_skill_example 1, test_skill 2
# says: it must be that of the values
# recognised: the variance of the predictions
def skill(predictions, value):
    return 1 - ((predictions - value) ** 2).mean() / predictions.var()
