# cell: positions
# loses: test_positions 3
# says: of a real response
def positions(prompt, response, reasoning, layer):
    return {"states": 3, "prompt": (0, 5), "reasoning": (5, 8), "logits": (4, 8)}
