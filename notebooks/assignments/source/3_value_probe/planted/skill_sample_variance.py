# cell: skill
# loses: test_skill_example, test_skill
# says: the variance is divided by n - 1
# recognised: n - 1 in the variance
def skill(predictions, value):
    return 1 - ((predictions - value) ** 2).mean() / value.var(ddof=1)
