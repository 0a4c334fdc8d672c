# cell: reasoning_length
# loses: test_reasoning 2
# says: only the tag's first token
def reasoning_length(ids, tag):
    if tag[0] not in ids:
        return len(ids)
    return len(ids) - ids[::-1].index(tag[0])
