# cell: reasoning_length
# loses: test_reasoning
# says: -1 is no length
# recognised: 0, -1 or None where there is no tag
def reasoning_length(ids, tag):
    # as poise_lab.rollouts.reasoning_ends, which says -1 where there is no tag
    for end in range(len(ids), len(tag) - 1, -1):
        if ids[end - len(tag) : end] == tag:
            return end
    return -1
