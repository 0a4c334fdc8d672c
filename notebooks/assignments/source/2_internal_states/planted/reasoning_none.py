# cell: reasoning_length
# loses: test_reasoning
# says: the length without a tag is still None
# recognised: 0, -1 or None where there is no tag
def reasoning_length(ids, tag):
    for end in range(len(ids), len(tag) - 1, -1):
        if ids[end - len(tag) : end] == tag:
            return end
