# cell: positions
# loses: test_positions
# says: reasoning is [14. 18.], expected [11. 18.]
def positions(prompt, response, reasoning, layer):
    # what a pool of 4 reads, which is less than what holds the reasoning
    start = prompt + max(0, reasoning - 4)
    logits = (prompt - 1, prompt + response - 1)
    return {"states": layer + 1, "prompt": (0, prompt), "reasoning": (start, prompt + reasoning), "logits": logits}
