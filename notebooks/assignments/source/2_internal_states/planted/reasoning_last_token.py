# cell: reasoning_length
# loses: test_reasoning
# says: only the tag's last token
# recognised: only the tag's first or last token looked for
def reasoning_length(ids, tag):
    if tag[-1] not in ids:
        return len(ids)
    return len(ids) - ids[::-1].index(tag[-1])
