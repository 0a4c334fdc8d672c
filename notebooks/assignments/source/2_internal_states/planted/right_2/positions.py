def positions(prompt, response, reasoning, layer):
    return {
        "logits": torch.arange(prompt - 1, prompt + response)[[0, -1]],
        "reasoning": torch.tensor([0, reasoning]) + prompt,
        "prompt": [0, prompt],
        "states": 1 + layer,
    }
