# cell: positions
# loses: test_positions
# says: states is 3., expected 1.
def positions(prompt, response, reasoning, layer):
    # hidden_states[2 + 1], as notebook 03 has it for layer 2
    logits = (prompt - 1, prompt + response - 1)
    return {"states": 2 + 1, "prompt": (0, prompt), "reasoning": (prompt, prompt + reasoning), "logits": logits}
