# cell: reasoning_length
# loses: test_reasoning
# says: with the tag's tokens in the other order
def reasoning_length(ids, tag):
    for end in range(len(ids), len(tag) - 1, -1):
        if set(ids[end - len(tag) : end]) == set(tag):
            return end
    return len(ids)
