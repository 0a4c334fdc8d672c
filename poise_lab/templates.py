"""What a tokenizer's chat template says: where reasoning stands, and which day it is."""

from __future__ import annotations

import datetime
import re

from transformers import PreTrainedTokenizerBase

from .tasks import END_OF_REASONING, START_OF_REASONING

# What else than <think> and </think> the reasoning stands between: a word in brackets and the same with a slash, or
END_TAG = re.compile(r"([<\[◁]\|?)/([\w:]*(?:think|thought|reason)\w*)(\|?[>\]▷])", re.IGNORECASE)
OTHER_TAGS = (
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)

DAY = datetime.date(2024, 7, 26)  # "today" for chat templates; Llama 3 has this one where it knows no other


def reasoning_tags(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The tags of the reasoning that a chat template names, else those in the vocabulary, else <think> and </think>."""
    for text in (str(tokenizer.chat_template or ""), " ".join(tokenizer.get_added_vocab())):
        if END_OF_REASONING in text:
            break
        if named := END_TAG.search(text):
            return "".join(named.groups()), named[0]
        for tags in OTHER_TAGS:
            if tags[1] in text:
                return tags
    return START_OF_REASONING, END_OF_REASONING


def undated(template: str) -> str:
    """A chat template that prints DAY where it asks for the day, in its format: a run resumed tomorrow is the same run."""
    return re.sub(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""", lambda call: repr(DAY.strftime(call[2])), template)
