# cell: positions
# loses: test_positions
# says: off by one
# recognised: logits off by one
def positions(prompt, response, reasoning, layer):
    logits = (prompt, prompt + response)
    return {"states": layer + 1, "prompt": (0, prompt), "reasoning": (prompt, prompt + reasoning), "logits": logits}
