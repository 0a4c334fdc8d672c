# cell: positions
# loses: test_positions_example, test_positions
# says: the position at the end does not belong to it
# recognised: an end that is off by one
def positions(prompt, response, reasoning, layer):
    logits = (prompt - 1, prompt + response - 1)
    return {"states": layer + 1, "prompt": (0, prompt), "reasoning": (prompt, prompt + reasoning + 1), "logits": logits}
