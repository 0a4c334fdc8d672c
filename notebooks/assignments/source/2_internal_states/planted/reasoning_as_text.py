# cell: reasoning_length
# loses: test_reasoning
# says: with a token whose number ends like the tag's
def reasoning_length(ids, tag):
    text, part = str(ids)[1:-1], str(tag)[1:-1]
    at = text.rfind(part)
    return text[: at + len(part)].count(",") + 1 if at >= 0 else len(ids)
