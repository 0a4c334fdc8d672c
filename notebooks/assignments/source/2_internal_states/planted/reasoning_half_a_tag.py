# cell: reasoning_length
# loses: test_reasoning
# says: with half a tag at the end
def reasoning_length(ids, tag):
    for start in range(len(ids) - 1, -1, -1):
        if ids[start : start + len(tag)] == tag[: len(ids) - start]:  # what is cut off at the end agrees as well
            return min(start + len(tag), len(ids))
    return len(ids)
