"""Characters of a prompt that a policy has no token for."""

from __future__ import annotations

import warnings

from transformers import PreTrainedTokenizerBase

from .tasks.own import RecordProblem
from .templates import from_template


def unknown_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id that stands for what has no token; None if there is none, or if it also stands where a text begins or ends."""
    others = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id)
    return None if tokenizer.unk_token_id in others else tokenizer.unk_token_id


def tell_unknown(policy, unknown: int, problem) -> bool:
    """Warn of the first character, else word, of a prompt of one's own that becomes the token `unknown`.

    Returns whether it has: a prompt may also name the token itself. In the tasks of the library, which nobody can write in
    other characters, three problems in a thousand have such a word (tête).
    """
    if not isinstance(problem, RecordProblem):
        return False
    text = from_template(policy, problem, tokenize=False) if policy.chat_template else policy.plain_text(problem)
    text = text.replace(policy.tokenizer.unk_token, " ")
    pieces = [*dict.fromkeys(text), *text.split()]
    for piece in pieces:
        if unknown in policy.tokenizer.encode(piece, add_special_tokens=False):
            warnings.warn(
                f"policy {policy.name!r} has no token for {piece!r}, so prompts do not say it, and questions that differ in "
                "it alone are the same to the policy; write it in other characters",
                stacklevel=3,
            )
            return True
    return False
