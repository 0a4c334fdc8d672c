def held_out(prompt_of_row, share, seed):
    from sklearn.model_selection import GroupShuffleSplit

    number = round(share * len(set(prompt_of_row.tolist())))
    _, rows = next(GroupShuffleSplit(1, test_size=number, random_state=seed).split(prompt_of_row, groups=prompt_of_row))
    return [row in set(rows.tolist()) for row in range(len(prompt_of_row))]
