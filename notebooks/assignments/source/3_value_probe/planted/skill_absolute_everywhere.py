# cell: skill
# loses: test_skill_example, test_skill
# says: these are absolute errors in both places
# recognised: absolute errors
def skill(predictions, value):
    return 1 - np.abs(predictions - value).mean() / np.abs(value - value.mean()).mean()
