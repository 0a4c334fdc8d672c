def reasoning_length(ids, tag):
    found = [i + len(tag) for i in range(len(ids) - len(tag) + 1) if ids[i : i + len(tag)] == tag]
    return max(found) if found else len(ids)
