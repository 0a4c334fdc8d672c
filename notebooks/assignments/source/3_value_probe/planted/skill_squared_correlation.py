# cell: skill
# loses: test_skill_example, test_skill
# says: this is the squared correlation
# recognised: the correlation or its square
def skill(predictions, value):
    if predictions.std() == 0:
        return 0.0
    return np.corrcoef(predictions, value)[0, 1] ** 2
