# cell: reasoning_length
# loses: test_reasoning_example, test_reasoning
# says: this is the first tag
# recognised: the first tag
def reasoning_length(ids, tag):
    for start in range(len(ids) - len(tag) + 1):
        if ids[start : start + len(tag)] == tag:
            return start + len(tag)
    return len(ids)
