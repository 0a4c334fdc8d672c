"""The comparison that a model passes before it is used: sampled, scored and layer states against its own plain pass.

What is sampled, what is scored and what a model says by itself are three ways through its code. Of each, `find_ways`
keeps the fastest that gives the numbers of the plain pass over one row; a model for which none does is refused.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Callable
from functools import partial

import torch

from .engine import (
    CachedRows,
    WholeRows,
    cache_bytes,
    context_of,
    decoder_layers,
    head,
    holds_a_state,
    new_cache,
    on_layer,
    run,
    trunk_states,
)
from .errors import NotFiniteError, PoiseLabError
from .packed import packed_states

# Ways to sample and to score, from the fastest to the one that asks least of a model.
SAMPLING = {
    "shared": "sampled with a cache, a common beginning run once",
    "rows": "sampled with a cache",
    "equal": "sampled with a cache, prompts of one length side by side",
    "whole": "sampled without a cache, prompts of one length side by side",
}
SCORING = {
    "shared": "scored, a common beginning run once",
    "whole": "scored, every row whole",
    "alone": "scored, row by row",
}
HEADS = {True: "output embeddings", False: "the model's head"}
PACKED = "scored, all rows in one, a prompt run once"
# nats by which a log-probability may be off where logits are up to 20, and parts of a state: half precision rounds
BOUNDS = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 0.1, torch.bfloat16: 0.5}
# A state that is updated token by token rounds in another way than the same in chunks, and a few tokens are far off:
# most of them must be so near that these, which the probes may not meet, are within the bound.
STEPS, MARGIN = 60, 5
WIDE = 50.0  # the largest logit where heads are compared
LIKELY = 1e-4  # probability of the tokens that are looked at: the logits of others are large, and are off by more


@dataclasses.dataclass(frozen=True)
class Ways:
    """How one model is run: by which names of SAMPLING and SCORING; whether its output embeddings alone give logits.

    bytes_per_token: what its cache takes. packs: whether rows are scored in one (`packed`) where that is faster.
    """

    sampling: str
    scoring: str
    plain_head: bool
    bytes_per_token: int
    packs: bool


@dataclasses.dataclass(frozen=True)
class Compared:
    """One comparison with the plain pass: what, the largest difference, and how large it may be."""

    what: str
    difference: float
    bound: float

    @property
    def fits(self) -> bool:
        return self.difference <= self.bound


class Comparison:
    """The plain passes of a model over a few probes, and everything else held against them.

    Four rows of token ids, twice: long ones with a beginning in common, short ones without. The first two rows part
    after the prompt, so that a row of the cache is split.
    length: tokens by which the probes are longer than they need to be.
    """

    def __init__(self, model, length: int = 0):
        self.model, self.rows, self.bytes_per_token = model, [], 2**16  # of a model without a cache: its states
        beginning = 34 + length
        ends = [(2, 3), (2, 3), (9, 3), (5, 3)]  # tokens of each prompt behind the beginning, and of each response
        longest = min(context_of(model), beginning + 12)
        beginning = max(2, longest - 12)
        self.probes = {"shared": self._probes(beginning, ends), "rows": self._probes(0, [(a + 1, b) for a, b in ends])}
        self.beginning = beginning
        self.plain = {name: [self._plain(ids) for ids, _ in rows] for name, rows in self.probes.items()}
        largest = max(float(logits.abs().max()) for rows in self.plain.values() for logits in rows)
        least = 1.0 if model.dtype in (torch.float32, torch.float64) else 0.02  # half precision rounds in proportion
        self.bound = BOUNDS.get(model.dtype, BOUNDS[torch.bfloat16]) * max(least, largest / 20)
        # a state in the cache hands on what is off at each step
        self.tight = self.bound / (MARGIN if holds_a_state(new_cache(model)) else 1)

    def _probes(self, beginning: int, ends) -> list[tuple[list[int], int]]:
        """Rows of token ids and how many of them are the prompt."""
        tokens = _ordinary_tokens(self.model)
        rows = []
        for i, (more, response) in enumerate(ends):
            ids = [tokens[(37 * t) % len(tokens)] for t in range(beginning)]
            ids += [tokens[(11 * t + 5 * max(i, 1) + 3) % len(tokens)] for t in range(more)]
            ids += [tokens[(23 * t + 17 * i + 1) % len(tokens)] for t in range(response)]
            rows.append((ids, beginning + more))
        return rows

    def _plain(self, ids: list[int]) -> torch.Tensor:
        """(T, V) the model's own logits over one row."""
        return run(self.model, input_ids=self._tensor([ids]), use_cache=False).logits[0]

    def _tensor(self, rows: list[list[int]]) -> torch.Tensor:
        return torch.tensor(rows, device=self.model.device)

    def note(self, what: str, compute: Callable[[], float], bound: float | None = None) -> bool:
        """Keep a comparison; whether it fits. A way that a model cannot go at all is infinitely off."""
        try:
            difference = compute()
        except Exception:  # each model has its own kind
            difference = float("inf")
        self.rows.append(Compared(what, difference, self.bound if bound is None else bound))
        return self.rows[-1].fits

    # --- each returns the largest difference ------------------------------------------------------

    def repeated(self) -> float:
        """Two passes over the same row."""
        return _off(self._plain(self.probes["rows"][0][0]), self.plain["rows"][0])

    def causal(self) -> float:
        """A row and its beginning."""
        ids, n = self.probes["shared"][2]
        return _off(self._plain(ids[:n]), self.plain["shared"][2][:n])

    def states(self) -> float:
        """The output of each decoder layer but the last, and the hidden states that the model gives out.

        Parts of the largest state; 0 for a model that gives out none.
        """
        weights = {id(t): t for t in (*self.model.parameters(), *self.model.buffers())}
        twin = copy.deepcopy(self.model, weights)  # of the same weights: asking for states leaves hooks behind
        layers, seen, (ids, _) = decoder_layers(twin), {}, self.probes["rows"][2]
        with contextlib.ExitStack() as stack:
            for i in range(len(layers)):
                stack.enter_context(on_layer(layers, i, partial(seen.__setitem__, i)))
            out = run(twin, input_ids=self._tensor([ids]), use_cache=False, output_hidden_states=True)
        if any(seen[i].shape[:2] != (1, len(ids)) or seen[i].dim() != 3 for i in range(len(layers))):
            return float("inf")
        given = (getattr(out, "hidden_states", None) or ())[1 : len(layers)]
        return max((_parts(seen[i], state) for i, state in enumerate(given)), default=0.0)

    def heads(self) -> float:
        """The output embeddings alone and the model's own head, over states so large that a cap or a scale is seen."""
        states = trunk_states(self.model, self._tensor([self.probes["rows"][2][0]]))[0]
        states = states * (WIDE / head(self.model, states, True).abs().max().clamp(min=1e-30))
        return _parts(head(self.model, states, True), head(self.model, states, False))

    def scored(self, way: str, plain_head: bool) -> float:
        """Trunk and head over rows padded on the right, or each by itself."""
        rows = self.probes["shared" if way == "shared" else "rows"]
        plain = self.plain["shared" if way == "shared" else "rows"]
        longest = max(len(ids) for ids, _ in rows)
        if way == "alone":
            states = [trunk_states(self.model, self._tensor([ids]))[0] for ids, _ in rows]
        else:
            ids = self._tensor([ids + [ids[0]] * (longest - len(ids)) for ids, _ in rows])
            states = trunk_states(self.model, ids, self.beginning if way == "shared" else 0)
        return max(
            _off(head(self.model, state[: len(logits)], plain_head), logits)
            for state, logits in zip(states, plain, strict=True)
        )

    def packed(self, plain_head: bool) -> float:
        """The same over all rows in one; the first two have one prompt."""
        rows, plain = self.probes["rows"], self.plain["rows"]
        both, *others = [(ids[:n], [ids[n:]]) for ids, n in rows[1:]]
        states, places = packed_states(self.model, [(both[0], [rows[0][0][rows[0][1] :], *both[1]]), *others])
        return max(
            _off(head(self.model, states[place], plain_head), logits)
            for place, logits in zip(places, plain, strict=True)
        )

    def sampled(self, way: str) -> float:
        """Rows that grow: one is split after the prompt, one is dropped after that, and the others change places."""
        rows, plain = self.probes["shared"], self.plain["shared"]  # the long ones, which windows of attention cut
        cuts = [n for _, n in rows]
        if way in ("equal", "whole"):
            cuts = [min(cuts)] * len(rows)
        prompts = [rows[i][0][: cuts[i]] for i in (0, 2, 3)]
        if way == "whole":
            grown = WholeRows(self.model, prompts)
        else:
            grown = CachedRows(self.model, prompts, self.beginning if way == "shared" else 0)
            self.bytes_per_token = max(1, cache_bytes(grown.cache) // grown.mask.numel())
        worst, held = 0.0, [0, 2, 3]  # the probe of each row
        for step, (order, held_then) in enumerate([([0, 0, 1, 2], [0, 1, 2, 3]), ([0, 3, 2], [0, 3, 2]), (None, None)]):
            expected = torch.stack([plain[i][cuts[i] - 1 + step] for i in held])
            worst = max(worst, _off(grown.logits, expected))
            if order is None:
                return worst
            held = held_then
            grown.step(self._tensor(order), self._tensor([rows[i][0][cuts[i] + step] for i in held]))

    def stepped(self) -> float:
        """Long rows of one length whose second half grows token by token."""
        tokens = _ordinary_tokens(self.model)
        n = min(STEPS, context_of(self.model) // 2)
        rows = [[tokens[(37 * t + 53 * i * t + i) % len(tokens)] for t in range(2 * n)] for i in range(4)]
        plain = torch.stack([self._plain(ids) for ids in rows])
        grown = CachedRows(self.model, [ids[:n] for ids in rows])
        worst = 0.0
        for t in range(n, 2 * n):
            worst = max(worst, _off(grown.logits, plain[:, t - 1]))
            grown.step(torch.arange(4, device=self.model.device), self._tensor([ids[t] for ids in rows]))
        return worst

    # ----------------------------------------------------------------------------------------------

    def scoring(self) -> tuple[bool, str]:
        """Whether the head is the output embeddings alone, and the way to score. Refuses a model without one."""
        same = self.note("the model's head is its output embeddings", self.heads, 1e-4)
        heads = (True,) if same else (False, True)  # of some models, the head on its own cannot be run
        for way, plain_head in itertools.product(("whole", "alone"), heads):
            what = f"{SCORING[way]}, by {HEADS[plain_head]}"
            if self.note(what, lambda way=way, plain_head=plain_head: self.scored(way, plain_head)):
                break
        else:
            self.refuse()
        shared = self.note(SCORING["shared"], lambda: self.scored("shared", plain_head))
        return plain_head, "shared" if shared else way

    def sampling(self) -> str:
        """The way to sample. Refuses a model without one."""
        exact = not holds_a_state(new_cache(self.model)) or self.note(
            f"a state in the cache, for {STEPS} steps", self.stepped, self.tight
        )
        for way in ("rows", "equal", "whole") if exact else ("whole",):
            bound = self.bound if way == "whole" else self.tight
            if self.note(SAMPLING[way], lambda way=way: self.sampled(way), bound):
                break
        else:
            self.refuse()
        shared = way == "rows" and self.note(SAMPLING["shared"], lambda: self.sampled("shared"), self.tight)
        return "shared" if shared else way

    def refuse(self):
        last = self.rows[-1]
        off = "cannot be done at all" if last.difference == float("inf") else f"is off by {last.difference:.2g}"
        raise PoiseLabError(
            f"a model of type {self.model.config.model_type!r} cannot be used: {last.what!r} {off}, against the model's "
            f"own plain pass (at most {last.bound:.1g})"
        )


@torch.no_grad()
def find_ways(model, length: int = 0) -> tuple[Ways, list[Compared]]:
    """How a model is run, and the comparisons that say so. The global random state is left as it was.

    length: tokens by which the probes are longer than they need to be.

    Raises PoiseLabError, naming the model's type and what differs, where no way gives the numbers of its plain pass.
    """
    kind = model.config.model_type
    if decoder_layers(model) is None:
        raise PoiseLabError(
            f"a model of type {kind!r} ({type(model).__name__}) has no list of decoder layers that can be found, so its "
            "hidden states cannot be read"
        )
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        try:
            probes = Comparison(model, length)
        except Exception as e:  # each model has its own kind
            reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
            raise PoiseLabError(f"a model of type {kind!r} cannot be run on plain token ids: {reason}") from e
        if not all(logits.isfinite().all() for rows in probes.plain.values() for logits in rows):
            raise NotFiniteError("the policy's logits are not finite")
        for what, compute in (
            ("two passes over the same tokens", probes.repeated),
            ("a pass that has not read what comes later", probes.causal),
            ("states of the decoder layers", probes.states),
        ):
            if not probes.note(what, compute):
                probes.refuse()
        plain_head, scoring = probes.scoring()
        packs = model.device.type == "cpu" and probes.note(PACKED, lambda: probes.packed(plain_head))
        sampling = probes.sampling()
    return Ways(sampling, scoring, plain_head, probes.bytes_per_token, packs), probes.rows


def check_adapters(model) -> None:
    """Refuse an adapter of which no whole model can be made: of its wrapper around the embedding the weights are not told."""
    configs = (getattr(model, "peft_config", None) or {}).values()
    if any(getattr(config, "trainable_token_indices", None) for config in configs):
        raise PoiseLabError(
            "an adapter on single tokens (trainable_token_indices) cannot be saved with the weights; call merge_and_unload() "
            "of its model first, or leave these tokens out"
        )


def merged(model):
    """A model without peft's adapters that computes the same: a copy with them in its weights, or itself if it has none.

    Raises PoiseLabError where its numbers are others (an adapter on tied weights, or one that is switched off).
    """
    adapted = [name for name, module in model.named_modules() if hasattr(module, "base_layer")]
    adapted += [name for name, module in model.named_modules() if hasattr(module, "modules_to_save")]
    if not adapted:
        return model
    check_adapters(model)
    copied = copy.deepcopy(model)
    for name in adapted:
        if any(name.startswith(f"{other}.") for other in adapted):  # within another
            continue
        module = copied.get_submodule(name)
        if hasattr(module, "unload_and_optionally_merge_module"):
            module = module.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
        else:
            module.merge(safe_merge=True)
            module = module.get_base_layer()
        copied.set_submodule(name, module)
    copied._hf_peft_config_loaded = False
    vars(copied).pop("peft_config", None)
    with torch.no_grad():
        one, other = Comparison(model), Comparison(copied)
        off = max(_off(a, b) for name in one.plain for a, b in zip(one.plain[name], other.plain[name], strict=True))
    if off > one.bound:
        raise PoiseLabError(
            f"the adapter cannot be merged into the weights of the model of type {model.config.model_type!r}: log-"
            f"probabilities would differ by {off:.2g}; save it by peft's own save_pretrained"
        )
    return copied


def _ordinary_tokens(model) -> list[int]:
    """Token ids that the config gives no meaning to."""
    config = model.config.get_text_config()
    special = {n for c in (model.config, config) for key, n in c.to_dict().items() if "token" in key and type(n) is int}
    return [n for n in range(min(config.vocab_size, 1000)) if n not in special]


@torch.no_grad()
def _off(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference of log-probabilities, of tokens that may well be sampled."""
    a, b = (logits.double().log_softmax(-1) for logits in (found, expected))
    difference = (a - b).abs()[b.exp() > LIKELY]
    return float(difference.max()) if difference.isfinite().all() else float("inf")


def _parts(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, in parts of the largest entry."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
