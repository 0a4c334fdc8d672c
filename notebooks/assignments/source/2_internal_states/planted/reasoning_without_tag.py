# cell: reasoning_length
# loses: test_reasoning_example, test_reasoning
# says: the tag itself belongs to the reasoning
# recognised: a length that leaves the tag out
def reasoning_length(ids, tag):
    for start in range(len(ids) - len(tag), -1, -1):
        if ids[start : start + len(tag)] == tag:
            return start
    return len(ids)
