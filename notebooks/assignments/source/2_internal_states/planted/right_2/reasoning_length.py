def reasoning_length(ids, tag):
    def before(end):
        if end < len(tag):
            return len(ids)
        return end if ids[end - len(tag) : end] == tag else before(end - 1)

    return before(len(ids))
