# cell: reasoning_length
# loses: test_reasoning
# says: without a tag all of the response is reasoning
# recognised: 0, -1 or None where there is no tag
def reasoning_length(ids, tag):
    for end in range(len(ids), len(tag) - 1, -1):
        if ids[end - len(tag) : end] == tag:
            return end
    return 0
