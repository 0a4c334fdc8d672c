"""Chat templates, the tokenizer's and one's own: where reasoning stands, which day it is, and whether all is said."""

from __future__ import annotations

import datetime
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

from transformers import PreTrainedTokenizerBase

from .errors import PoiseLabError
from .settings import check_text
from .tasks import END_OF_REASONING, START_OF_REASONING, RecordProblem

# What else than <think> and </think> the reasoning stands between: a word in brackets and the same with a slash, or
END_TAG = re.compile(r"([<\[◁]\|?)/([\w:]*(?:think|thought|reason)\w*)(\|?[>\]▷])", re.IGNORECASE)
OTHER_TAGS = (
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)

DAY = datetime.date(2024, 7, 26)  # "today" for chat templates; Llama 3 has this one where it knows no other
TEMPLATE_FILES = (".jinja", ".txt")
CODES = "aAbBcdHIjmMpSUwWxXyYZ"  # of strftime


def reasoning_tags(tokenizer: PreTrainedTokenizerBase, template: str = "") -> tuple[str, str]:
    """The tags of the reasoning that a chat template names, else those in the vocabulary, else <think> and </think>."""
    for text in (template or str(tokenizer.chat_template or ""), " ".join(tokenizer.get_added_vocab())):
        if END_OF_REASONING in text:
            break
        if named := END_TAG.search(text):
            return "".join(named.groups()), named[0]
        for tags in OTHER_TAGS:
            if tags[1] in text:
                return tags
    return START_OF_REASONING, END_OF_REASONING


def undated(template: str) -> str:
    """A chat template to which it is always DAY, however it asks for the day: a run resumed tomorrow is the same run.

    What it asks (strftime_now) is answered by a macro of that name; a line of its own, which Jinja takes away.
    """
    if "strftime_now" not in template:
        return template
    parts = "".join(f"|replace('%-{c}', '%{c}')|replace('%{c}', {DAY.strftime('%' + c)!r})" for c in CODES)
    return f"{{% macro strftime_now(asked) %}}{{{{ asked{parts}|replace('%%', '%') }}}}{{% endmacro %}}\n{template}"


def read_template(template: str | Path) -> str:
    """A template as text: the text itself, or that of a file. Raises PoiseLabError for a file that cannot be read."""
    if not str(template).endswith(TEMPLATE_FILES):
        check_text(str(template), "template")
        return str(template)
    if not Path(template).is_file():
        raise PoiseLabError(f"there is no template {template}")
    try:
        return Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise PoiseLabError(f"template {template} cannot be read: {e}") from None


def as_chat_template(template: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """A template in Jinja as it is; of a text with {question} in it, one that writes the same.

    A beginning-of-sequence token comes first where the tokenizer puts one in front of a text.

    Raises PoiseLabError for what is neither.
    """
    if any(mark in template for mark in ("{{", "{%", "{#")):
        return template
    if "{question}" not in template:
        raise PoiseLabError(f"template={template!r} must have {{question}} in it, where the question goes, or be Jinja")
    begins = tokenizer.bos_token_id is not None and tokenizer.encode("")[:1] == [tokenizer.bos_token_id]
    system = "{{ messages[0]['content'] if messages[0]['role'] == 'system' else '' }}"
    text = template.replace("{system}", system).replace("{question}", "{{ messages[-1]['content'] }}")
    return ("{{ bos_token }}" if begins else "") + text + "{{ '' }}"  # or Jinja takes away a newline at the end


def chat_template_of(policy) -> str:
    """The policy's own chat template, else its tokenizer's. Raises PoiseLabError where that has several and no default."""
    if policy.template:
        return as_chat_template(policy.template, policy.tokenizer)
    try:
        return policy.tokenizer.get_chat_template()
    except ValueError as e:
        raise PoiseLabError(f"the chat template of policy {policy.name!r} cannot put a problem: {e}") from e


def from_template(policy, problem, tokenize: bool = True) -> list[int] | str:
    """A problem's prompt through the policy's chat template, on no day: token ids, or text.

    Raises PoiseLabError where that fails.
    """
    try:
        return policy.tokenizer.apply_chat_template(
            policy.messages(problem), chat_template=undated(policy.chat_template), add_generation_prompt=True,
            tokenize=tokenize, return_dict=False, **policy.template_args,
        )  # fmt: skip
    except Exception as e:  # of jinja2, and what a template raises itself
        raise PoiseLabError(f"the chat template of policy {policy.name!r} cannot put a problem: {e}") from e


def without_end(tokenizer, text: str) -> list[int]:
    """Token ids of a prompt behind what the tokenizer starts a text with, without what it ends one with."""
    ids, bare = tokenizer.encode(text), tokenizer.encode(text, add_special_tokens=False)
    ends = (n for n in range(len(ids), len(bare) - 1, -1) if ids[n - len(bare) : n] == bare)
    return ids[: next(ends, len(ids))]


def check_prompt(policy) -> None:
    """Refuse a prompt that does not say all that a `Policy` was told to say, with what a chat template does not know."""
    if policy.template and policy.shots:
        raise PoiseLabError("shots are shown as plain text, without a template; leave out one of the two")
    template = policy.chat_template
    if not template:
        if policy.template_args:
            raise PoiseLabError(
                f"template_args={policy.template_args} have no chat template to go to: policy {policy.name!r} has none, "
                'or wording is not "question", or there are shots'
            )
        return
    for name in policy.template_args:
        if not re.search(rf"\b{re.escape(name)}\b", template):
            raise PoiseLabError(
                f"the chat template of policy {policy.name!r} knows no {name!r}; read it for what it knows"
            )
    asked = "What is 1 + 2? Give the number alone, without a word around it."
    problem = SimpleNamespace(compact=asked, question=asked, line=asked)
    prompt, again = (from_template(policy, problem, tokenize=False) for _ in range(2))
    if prompt != again:
        raise PoiseLabError(
            f"the chat template of policy {policy.name!r} writes another prompt every time, so no run could be resumed; give "
            "a template without chance"
        )
    for what, text in (("question", asked), ("system message", policy.system)):
        if "".join(text.split()).casefold() not in "".join(prompt.split()).casefold():
            raise PoiseLabError(
                f"the chat template of policy {policy.name!r} leaves out the {what}; give a template with it"
            )


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
