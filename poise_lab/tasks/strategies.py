"""Which way a response to one of the bundled tasks was worked out, read from its text alone."""

from __future__ import annotations

from .gym import END_OF_REASONING, START_OF_REASONING

STRATEGIES = ("at once", "in leaps", "step by step")

# What reasoning that goes step by step looks like, and no other: an equation, a number before each letter, a colon
# between the words as given and in order.
STEPWISE = {
    "chain_sum": lambda reasoning: "=" in reasoning,
    "spell_backward": lambda reasoning: reasoning[0].isdigit(),
    "word_sorting": lambda reasoning: ":" in reasoning,
}


def strategy(task: str, response: str) -> str | None:
    """One of STRATEGIES: "at once" where nothing was reasoned; None for a task whose ways of working are not known."""
    if task not in STEPWISE:
        return None
    tagged = START_OF_REASONING in response or END_OF_REASONING in response  # without a tag all of it is the answer
    reasoning = response.partition(END_OF_REASONING)[0].removeprefix(START_OF_REASONING).strip() if tagged else ""
    if not reasoning:
        return "at once"
    return "step by step" if STEPWISE[task](reasoning) else "in leaps"
