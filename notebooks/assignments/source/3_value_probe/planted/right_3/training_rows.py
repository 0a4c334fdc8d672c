def training_rows(features, rewards):
    return [row for pair in features.tolist() for row in pair], [r for a, b in rewards.tolist() for r in (b, a)]
