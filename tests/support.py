"""What several test files build on: tiny random policies of four families, made-up tasks and records."""

from __future__ import annotations

import dataclasses
import hashlib

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from poise_lab import Internals, Policy, Rollouts, RunRecord, data_dir, read_run
from poise_lab.models.pretrain import character_tokenizer

FAMILIES = ("qwen3", "llama", "gemma3", "gpt2")
PAD, EOS = 0, 1
ENDS = [EOS, 20, 40, 60, 80]  # several end tokens, so that random policies end at many lengths
WINDOW = 8  # of gemma3's sliding attention


def tiny_policy(family: str = "qwen3", seed: int = 0, ends=ENDS, layers: int = 3, **changes) -> Policy:
    """A random policy of a few thousand parameters whose distributions are far from uniform."""
    tokenizer = character_tokenizer()
    shared = dict(
        vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=EOS, pad_token_id=PAD,
        initializer_range=0.3,
    )  # fmt: skip
    decoder = dict(
        hidden_size=16, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(seed)
    if family == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**{**shared, **decoder, "tie_word_embeddings": True, **changes}))
    elif family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**{**shared, **decoder, **changes}))
    elif family == "gemma3":
        gemma = dict(
            sliding_window=WINDOW, final_logit_softcapping=5.0,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"][:layers],
        )  # fmt: skip
        model = Gemma3ForCausalLM(Gemma3TextConfig(**{**shared, **decoder, **gemma, **changes}))
    else:
        gpt2 = dict(n_embd=16, n_layer=layers, n_head=4, n_positions=128)
        model = GPT2LMHeadModel(GPT2Config(**{**shared, **gpt2, **changes}))
    model.generation_config.eos_token_id = list(ends)
    model.generation_config.pad_token_id = PAD
    return Policy(model.eval(), tokenizer, f"random-{family}", "compact")


@dataclasses.dataclass(frozen=True)
class ToyProblem:
    """A prompt of any text; a response is right if its first character has an even code."""

    compact: str
    task: str = "toy"

    @property
    def question(self) -> str:
        return self.compact

    @property
    def line(self) -> str:
        return f"{self.compact}: "

    @property
    def difficulty(self) -> dict:
        return {"length": float(len(self.compact))}

    def reward(self, response: str) -> float:
        return float(bool(response) and ord(response[0]) % 2 == 0)


class ToyTask:
    """Endless toy problems of many lengths, with rewards that a random policy gets about half of the time."""

    name, settings = "toy", {}

    def sample(self, n, seed, exclude=()):
        seen, problems, i = {p.compact for p in exclude}, [], 0
        while len(problems) < n:
            digest = hashlib.sha256(f"{seed}/{i}".encode()).hexdigest()
            text, i = digest[: 3 + int(digest[0], 16)], i + 1
            if text not in seen:
                seen.add(text)
                problems.append(ToyProblem(text, "even" if i % 2 else "odd"))
        return problems


def toy_rollouts(rewards, tasks=None) -> Rollouts:
    """A record with the given rewards (P, M); every response is one token long."""
    rewards = torch.as_tensor(rewards)
    rewards = rewards if rewards.is_floating_point() else rewards.float()
    p, m = rewards.shape
    one = torch.ones(p, m, dtype=torch.long)
    return Rollouts(
        problems=[ToyProblem(f"{i}=", tasks[i] if tasks else "toy") for i in range(p)],
        prompt_ids=[[5, 6] for _ in range(p)],
        response_ids=torch.full((p, m, 1), 7),
        lengths=one,
        reasoning_lengths=one,
        reasoning_ended=one.bool(),
        finished=one.bool(),
        logprobs=torch.zeros(p, m, 1),
        rewards=rewards,
        texts=[["x"] * m for _ in range(p)],
        temperature=1.0,
        pad_id=PAD,
    )


def toy_internals(features) -> Internals:
    """Internals with the given features (P, M, 2 D + 3)."""
    features = torch.as_tensor(features, dtype=torch.float32)
    p, m, f = features.shape
    d = (f - 3) // 2
    zero = torch.zeros(p, m, 1)
    return Internals(features[..., :d], features[..., d : 2 * d], features[..., 2 * d :], zero, zero, 0, 1)


def random_internals(p: int, m: int, d: int, seed: int = 0) -> Internals:
    generator = torch.Generator().manual_seed(seed)
    return toy_internals(torch.randn(p, m, 2 * d + 3, generator=generator))


def plain_logits(policy: Policy, ids: list[int], **options):
    """The model's own forward pass over one sequence, no batching, no cache."""
    with torch.no_grad():
        return policy.model(input_ids=torch.tensor([ids]), use_cache=False, **options)


def response(rollouts: Rollouts, i: int, j: int) -> list[int]:
    """Token ids of response j to prompt i, without padding."""
    return rollouts.response_ids[i, j, : rollouts.lengths[i, j]].tolist()


def assert_close(kept: Internals, read: Internals) -> None:
    """What was kept while sampling is what the pass reads: to 1e-4, states in parts of the largest one."""
    assert (kept.layer, kept.pool) == (read.layer, read.pool)
    for name, x in vars(read).items():
        if isinstance(x, torch.Tensor):
            found = getattr(kept, name)
            assert found.shape == x.shape and found.dtype == x.dtype, name
            scale = max(1.0, float(x.abs().max())) if name in ("prompt", "reasoning") else 1.0
            assert (found - x).abs().max() <= 1e-4 * scale, name


def many_settings(n: int = 17, steps: int = 40) -> list[RunRecord]:
    """Five seeds of n settings: the first steps of the recorded POISE and RLOO runs, and copies of POISE's by other names."""
    found = []
    for k in range(n):
        name = "rloo" if k == 1 else "poise"
        for seed in range(5):
            run = read_run(data_dir() / "runs" / f"{name}-{seed}")
            config = {**run.config, "train": {**run.config["train"], "steps": steps}}
            folder = run.folder
            if k > 1:
                config["baseline"] = {**config["baseline"], "name": f"copy_{k}"}
                folder = folder.with_name(f"copy_{k}-{seed}")  # which is not there, nor are its texts
            found.append(RunRecord(folder, config, run.metrics[: steps + 1]))
    return found
