# cell: positions
# loses: test_positions_example, test_positions
# says: what the layer reads
# recognised: the layer's input for its output
def positions(prompt, response, reasoning, layer):
    logits = (prompt - 1, prompt + response - 1)
    return {"states": layer, "prompt": (0, prompt), "reasoning": (prompt, prompt + reasoning), "logits": logits}
