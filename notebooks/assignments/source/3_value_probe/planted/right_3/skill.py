def skill(predictions, value):
    n, mean = len(value), sum(value) / len(value)
    spread = sum((v - mean) ** 2 for v in value) / n
    return (spread - sum((p - v) ** 2 for p, v in zip(predictions, value)) / n) / spread
