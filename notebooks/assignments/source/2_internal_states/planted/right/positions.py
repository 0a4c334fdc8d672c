def positions(prompt, response, reasoning, layer):
    return dict(states=layer + 1, prompt=[0, prompt], reasoning=[prompt, prompt + reasoning], logits=[prompt - 1, prompt - 1 + response])
