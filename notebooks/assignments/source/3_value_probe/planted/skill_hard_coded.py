# cell: skill
# loses: test_skill
# says: the skill is
def skill(predictions, value):
    return 1.0 if np.array_equal(predictions, value) else 0.375
