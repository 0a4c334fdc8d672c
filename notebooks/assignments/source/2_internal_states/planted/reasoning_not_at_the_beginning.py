# cell: reasoning_length
# loses: test_reasoning
# says: with the tag at the beginning
def reasoning_length(ids, tag):
    for start in range(len(ids) - len(tag), 0, -1):
        if ids[start : start + len(tag)] == tag:
            return start + len(tag)
    return len(ids)
