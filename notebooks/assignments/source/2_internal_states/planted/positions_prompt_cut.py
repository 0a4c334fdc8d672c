# cell: positions
# loses: test_positions_example, test_positions
# says: the last token of the prompt is missing
# recognised: an end that is off by one
def positions(prompt, response, reasoning, layer):
    logits = (prompt - 1, prompt + response - 1)
    return {"states": layer + 1, "prompt": (0, prompt - 1), "reasoning": (prompt, prompt + reasoning), "logits": logits}
