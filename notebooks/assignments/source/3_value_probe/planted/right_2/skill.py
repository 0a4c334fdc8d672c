def skill(predictions, value):
    from sklearn.metrics import r2_score

    return r2_score(value, predictions)
