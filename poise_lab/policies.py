"""Loading a causal language model by name, folder or hub id, with what a rollout needs to know of it."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from . import checkpoints, threads
from .engine import context_of, decoder_layers, head
from .errors import PoiseLabError, unknown_name
from .files import read_json, whole_folder
from .loading import ending_at, read_model
from .process import without_bars
from .sources import check_folder, folder_of
from .tasks import END_OF_REASONING, START_OF_REASONING, Problem
from .templates import (
    chat_template_of,
    check_prompt,
    from_template,
    read_template,
    reasoning_tags,
    tell_unknown,
    unknown_token,
    without_end,
)
from .ways import Compared, Ways, check_adapters, find_ways, merged

WORDINGS = ("compact", "question", "line")
SPOKEN = ("wording", "shots", "tags", "system", "template", "template_args")  # how a policy is spoken to


@dataclasses.dataclass
class Policy:
    """A causal LM, its tokenizer, and how it is spoken to.

    model: of transformers; of a model that peft has wrapped, the one inside, which has the adapter in its layers.
    wording: "compact" (short prompts of the bundled tasks), "question" (reasoning-gym's own text, through the
        tokenizer's chat template where it has one), or "line" (plain text which the answer continues; see `Problem`).
    shots: solved problems of the same task that stand in front of each problem. Then the prompt is plain text,
        one question and answer after another, and a response ends with the first token that has a newline in it.
    tags: what the reasoning stands between, ("<think>", "</think>") for example, the first of them "" if nothing opens
        it; by default what the chat template or the vocabulary shows (see `reasoning_tags`).
    system: the system message of the chat template; where the prompt is plain text, it stands in front of it.
    template: a chat template of one's own, used with every wording: Jinja, or a text such as
        "User: {question}\\nAssistant:", with {system} in it where a system message goes.
    template_args: what the chat template is told besides, such as {"enable_thinking": False}.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    wording: str = "question"
    shots: int = 0
    tags: tuple[str, str] | None = None
    system: str = ""
    template: str = ""
    template_args: dict = dataclasses.field(default_factory=dict)
    _ways: Ways | None = dataclasses.field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self):
        if hasattr(self.model, "get_base_model"):
            kinds = [config for config in self.model.peft_config.values() if config.is_prompt_learning]
            if kinds:
                raise PoiseLabError(
                    f"policy {self.name!r} has an adapter of type {kinds[0].peft_type.value}, which writes into the "
                    "prompt; use one that lies in the layers, such as LoRA"
                )
            check_adapters(self.model)
            self.model = self.model.get_base_model()
        if getattr(self.model, "generation_config", None) is None:
            raise PoiseLabError(
                f"policy {self.name!r} ({type(self.model).__name__}) writes no text; load it by AutoModelForCausalLM"
            )
        self._check_types()
        eos = self.model.generation_config.eos_token_id
        eos = list(eos or ()) if isinstance(eos, list | tuple | None) else [eos]
        if not all(type(i) is int for i in eos):
            raise PoiseLabError(f"policy {self.name!r}: eos_token_id={eos} of its generation config are no token ids")
        # a chat model's tokenizer may end turns with another token than its generation config: either ends one
        eos = {*eos, self.tokenizer.eos_token_id} - {None}
        eos = {i for i in eos if 0 <= i < self.model.config.get_text_config().vocab_size}
        if not eos:
            raise PoiseLabError(
                f"policy {self.name!r} has no end-of-sequence token that its model knows, so its responses could not end; "
                "set tokenizer.eos_token_id"
            )
        self.ends = sorted(eos)
        self.eos_token_ids = list(self.ends)  # and below the newlines that end a response after examples
        self._find_tags()
        if self.shots < 0:
            raise PoiseLabError(f"shots={self.shots}; show 0 or more solved problems")
        if self.shots:  # some vocabularies have tokens such as "\\n\\n": every one of them ends the line
            pieces = self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])
            newlines = [i for i, piece in enumerate(pieces) if "\n" in piece and i not in self.eos_token_ids]
            if not newlines:
                raise PoiseLabError(
                    f"policy {self.name!r} has no token with a newline, at which an answer after examples ends; use shots=0"
                )
            self.eos_token_ids = self.ends + newlines
        check_prompt(self)
        self._unknown = unknown_token(self.tokenizer)  # None once a prompt with it has been told of

    def _check_types(self) -> None:
        """Refuse what a file or a caller has given as another kind of value than a setting is of."""
        kinds = {"wording": str, "shots": int, "system": str, "template": str, "template_args": dict}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise PoiseLabError(f"{name}={getattr(self, name)!r} is no {kind.__name__}")

    def _find_tags(self) -> None:
        """Sets `tags`, `end_of_reasoning` (token ids of the end tag on its own), and the tokens that no text shows."""
        tags = self.tags or reasoning_tags(self.tokenizer, self.template)
        if isinstance(tags, str) or [type(tag) for tag in tags] != [str, str] or not tags[1].strip():
            raise PoiseLabError(f"tags={tags!r}; give what starts and what ends the reasoning, as two pieces of text")
        start, end = (self.tokenizer.encode(tag, add_special_tokens=False) for tag in tags)
        self.tags, self.end_of_reasoning = (self._as_written(tags[0], start), self._as_written(tags[1], end)), end
        added = self.tokenizer.added_tokens_decoder
        special = {i for i, token in added.items() if token.special or i in self.eos_token_ids}
        special |= set(self.tokenizer.all_special_ids)
        self._hidden = special - ({*start, *end} - {self.tokenizer.unk_token_id, *self.eos_token_ids})

    def _as_written(self, tag: str, ids: list[int]) -> str:
        """A tag as its tokens decode: "< / think >" where a tokenizer keeps the pieces apart."""
        written = self.tokenizer.decode(ids).strip()
        apart = written != tag.strip() and "".join(written.split()).lower() == "".join(tag.split()).lower()
        return written if apart else tag

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def context(self) -> int:
        """Longest sequence that the model takes, in tokens."""
        return context_of(self.model)

    @property
    def pad_id(self) -> int:
        """The token at places that hold none: the tokenizer's, or one that ends where the model has no embedding for it."""
        own, vocabulary = self.tokenizer.pad_token_id, self.model.config.get_text_config().vocab_size
        return self.eos_token_ids[0] if own is None or not 0 <= own < vocabulary else own

    @property
    def layers(self) -> torch.nn.ModuleList:
        """The decoder layers, in order. Raises PoiseLabError if they are not found."""
        layers = decoder_layers(self.model)
        if layers is None:
            raise PoiseLabError(
                f"policy {self.name!r} ({type(self.model).__name__}) has no list of decoder layers that can be found; "
                "its hidden states cannot be read"
            )
        return layers

    @property
    def ways(self) -> Ways:
        """How the model is run, found out by comparison the first time; every use puts it into evaluation mode.

        In training mode dropout would make two readings differ.

        Raises PoiseLabError for a model whose numbers differ from those of its own plain pass (`ways.find_ways`).
        """
        self.model.eval()
        if self._ways is None:
            threads.use_for(self.model.num_parameters())
            self._ways = find_ways(self.model)[0]
        return self._ways

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits from the trunk's last hidden states: (N, D) -> (N, V)."""
        return head(self.model, hidden, self.ways.plain_head)

    @property
    def _chats(self) -> bool:
        return bool(self.template or self.wording == "question" and not self.shots and self.tokenizer.chat_template)

    @property
    def chat_template(self) -> str | None:
        """The chat template that prompts go through, in Jinja; None where they are plain text."""
        return chat_template_of(self) if self._chats else None

    def prompt_ids(self, problem: Problem) -> list[int]:
        """Token ids of a problem's prompt, the same on every day; warns once of a character that has no token."""
        if self._chats:
            ids = from_template(self, problem)
        else:
            ids = without_end(self.tokenizer, self.plain_text(problem))
        if self._unknown in ids and tell_unknown(self, self._unknown, problem):
            self._unknown = None
        return ids

    def plain_text(self, problem: Problem) -> str:
        """The prompt where there is no chat template."""
        front = f"{self.system}\n\n" if self.system else ""
        return front + (self.few_shot_text(problem) if self.shots else self._worded(problem))

    def messages(self, problem: Problem) -> list[dict]:
        """What the chat template is given: the system message, if there is one, and the problem."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self._worded(problem)}]

    def _worded(self, problem: Problem) -> str:
        return getattr(problem, self.wording)  # a Problem has each of WORDINGS

    def few_shot_text(self, problem: Problem) -> str:
        """The prompt after examples: each a problem and its answer, then the problem.

        "Answer:" stands on a line of its own and a blank line between examples; in the wording "line", neither does.
        """
        gap, then = ("\n", "") if self.wording == "line" else ("\n\n", "\nAnswer:")
        solved = [f"{self._worded(p)}{then} {p.answer}{gap}" for p in problem.examples(self.shots)]
        return "".join(solved) + self._worded(problem) + then

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The texts of some responses, without special tokens; tags of the reasoning stay where they are special."""
        return self.tokenizer.batch_decode([[i for i in row if i not in self._hidden] for row in rows])

    def graded(self, text: str, prompt: list[int]) -> str:
        """The text of a response as `Problem.reward` wants it: its reasoning between <think> and </think>.

        A tag that the prompt (token ids) has opened stands in front of it.
        """
        start, end = self.tags
        if start and self.tokenizer.decode(prompt[-4 * len(start) - 16 :]).rstrip().endswith(start.rstrip()):
            text = start + text
        if start and start != START_OF_REASONING:
            text = text.replace(start, START_OF_REASONING)
        return text.replace(end, END_OF_REASONING)

    def text_of(self, response: str) -> str:
        """What counts of a response's text: all of it, or its first line after examples."""
        return response.partition("\n")[0] if self.shots else response

    def spoken(self) -> dict:
        """How it is spoken to, for the run's config: SPOKEN, by name."""
        return {name: list(self.tags) if name == "tags" else getattr(self, name) for name in SPOKEN}

    def save(self, folder: str | Path) -> None:
        """Write config, safetensors weights, tokenizer, and how it is spoken to, to a folder that `load_policy` reads.

        All of it or nothing, since a part would be spoken to in another way: an error leaves what was there, and a kill
        while a folder that is there is replaced leaves one without config.json, which is not loaded.
        An adapter is merged into the weights. Of the generation config the tokens are kept, with all that end a response
        here, and do_sample, temperature, top_p and top_k; what else would bend the probabilities of the policy, such as a
        repetition penalty, is not. Raises PoiseLabError where an adapter cannot be merged (`ways.merged`).
        """
        with whole_folder(
            folder, without=("chat_template.jinja", "*.safetensors", "*.safetensors.index.json")
        ) as partial:
            with without_bars(), ending_at(merged(self.model), self.ends) as model:
                model.save_pretrained(partial)
            self.tokenizer.save_pretrained(partial)
            if self.template:  # what else reads the folder finds it where transformers keeps it
                (partial / "chat_template.jinja").write_text(self.chat_template, encoding="utf-8")
            spoken = {name: value for name, value in self.spoken().items() if value or name in ("wording", "shots")}
            if self.tags == reasoning_tags(self.tokenizer, self.template):
                del spoken["tags"]
            (partial / "poise_lab.json").write_text(json.dumps(spoken) + "\n", encoding="utf-8")


def load_policy(
    name: str | Path,
    *,
    shots: int | None = None,
    wording: str | None = None,
    tags: tuple[str, str] | None = None,
    system: str | None = None,
    template: str | Path | None = None,
    template_args: dict | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Policy:
    """Load a policy: "thinker" (bundled), a fetched model, a folder, a hub id, or a run folder: as training has left it.

    Only safetensors weights are read.

    shots, wording, tags, system, template, template_args: how it is spoken to (see `Policy`); by default as the folder
        was saved with, else the wording "question", without shots. template may be a file, .jinja or .txt.
    dtype: bfloat16 is faster on a CPU with bfloat16 products (the readings of `poise-lab study real` use it);
        training wants float32: small updates vanish in bfloat16.

    Raises PoiseLabError if the name is none of these, the model has not been fetched, the folder holds no model, or
    the wording is not known.
    """
    if not isinstance(name, str | Path):
        raise PoiseLabError(f"policy={name!r} is no name; give one, or the path of a folder")
    if wording not in (None, *WORDINGS):
        raise unknown_name("wording", wording, WORDINGS)
    spoken = dict(
        shots=shots, wording=wording, tags=tags, system=system,
        template=template and read_template(template), template_args=template_args,
    )  # fmt: skip
    source = folder_of(name)
    if (source / "metrics.jsonl").is_file() and not (source / "policy").is_dir():
        return _of_run(source, spoken, dtype=dtype, device=device)
    source = source / "policy" if (source / "metrics.jsonl").is_file() else source  # that of a finished run
    check_folder(name, source)
    model, tokenizer = read_model(str(name), source, dtype)
    if (source / "poise_lab.json").is_file():
        try:
            saved = {"wording": None, **read_json(source / "poise_lab.json")}
        except (ValueError, TypeError) as e:
            raise PoiseLabError(f"{source / 'poise_lab.json'} cannot be read: {e}") from None
        if saved["wording"] not in WORDINGS:
            raise PoiseLabError(f"{source / 'poise_lab.json'} asks for wording {saved['wording']!r}; known: {WORDINGS}")
        spoken = {name: saved.get(name) if value is None else value for name, value in spoken.items()}
    try:
        model.to(device).eval()
    except (AssertionError, RuntimeError) as e:  # torch has no such device, or no room there
        reason = str(e).splitlines()[0]
        raise PoiseLabError(f"policy {str(name)!r} cannot be put on device {str(device)!r}: {reason}") from None
    policy = Policy(model, tokenizer, str(name), **{k: v for k, v in spoken.items() if v is not None})
    if policy.wording == "question" and not policy.shots and not policy.chat_template:
        warnings.warn(
            f"policy {str(name)!r} has no chat template, so problems are put to it as plain text; "
            "shots=4 shows it what an answer looks like",
            stacklevel=2,
        )
    _ = policy.ways  # a model that cannot be used is refused here
    return policy


def _of_run(run: Path, spoken: dict, **how) -> Policy:
    """The policy that a run without a folder `policy` started from, with the weights of its last checkpoint."""
    saved = checkpoints.saved(run / "checkpoints")
    if not saved:
        trl = "; those of a run on TRL are its folders checkpoint-STEP" if any(run.glob("checkpoint-*")) else ""
        raise PoiseLabError(f"run folder {run} holds no checkpoint, so no policy{trl}")
    try:
        settings = read_json(run / "config.json")
        start = settings["policy"]
    except (OSError, ValueError, KeyError, TypeError):
        raise PoiseLabError(f"folder {run} is no run folder: it has no readable config.json") from None
    spoken = {name: settings.get(name) if value is None else value for name, value in spoken.items()}
    try:
        policy = load_policy(start, **spoken, **how)
    except PoiseLabError as e:
        raise PoiseLabError(
            f"run {run} began from the policy {start!r}, which is not found from here; go to where it was begun: {e}"
        ) from None
    trained = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
    checkpoints.load(saved[-1], {"model": lambda weights: checkpoints.copy_weights(trained, weights)})
    policy.name = str(run)
    return policy


def check_policy(policy: Policy) -> list[Compared]:
    """The comparison that `load_policy` makes, at length: each way to run the model, and how far it is off.

    A way that does not fit is not taken; Ways says which ones are (`policy.ways`). Raises PoiseLabError if one is missing.
    """
    policy.model.eval()
    return find_ways(policy.model, length=64)[1]


WORTH = 32  # tokens; a shorter common beginning is not worth a pass of its own


def common_prefix(prompts: Sequence[list[int]]) -> int:
    """Tokens at the start that all prompts have in common, at least one less than any of them; 0 if under WORTH."""
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)  # what the first and the last in order share, all between them share
    n, most = 0, min(map(len, prompts)) - 1
    while n < most and first[n] == last[n]:
        n += 1
    return n if n >= WORTH else 0


def by_beginning(prompts: Sequence[list[int]]) -> list[list[int]]:
    """Indices of prompts: those whose first WORTH tokens are those of most of them, then the others; else all in one.

    One that begins otherwise would leave no beginning in common: a problem that is itself among the examples is shown others.
    """
    if len(prompts) < 3:
        return [list(range(len(prompts)))]
    begins = [tuple(prompt[:WORTH]) for prompt in prompts]
    (usual, many), *_ = Counter(begins).most_common(1)
    if len(usual) < WORTH or not len(prompts) < 2 * many < 2 * len(prompts):
        return [list(range(len(prompts)))]
    return [[i for i, begin in enumerate(begins) if (begin == usual) is most] for most in (True, False)]
