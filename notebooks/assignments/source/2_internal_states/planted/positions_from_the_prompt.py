# cell: positions
# loses: test_positions_example, test_positions
# says: counted from the start of the prompt
# recognised: a reasoning counted from the start of the prompt
def positions(prompt, response, reasoning, layer):
    logits = (prompt - 1, prompt + response - 1)
    return {"states": layer + 1, "prompt": (0, prompt), "reasoning": (0, reasoning), "logits": logits}
