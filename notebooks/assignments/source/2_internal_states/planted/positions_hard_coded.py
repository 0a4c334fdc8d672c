# cell: positions
# loses: test_positions
# says: states is 3., expected 1.
def positions(prompt, response, reasoning, layer):
    return {"states": 3, "prompt": (0, 5), "reasoning": (5, 8), "logits": (4, 8)}
