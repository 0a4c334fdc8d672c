"""What the parts of the benchmark run on."""

from __future__ import annotations

import torch

from ..models.pretrain import character_tokenizer
from ..policies import Policy, load_policy
from ..tasks import TINY_TASKS, load_task

ROUNDS = 3  # of which the medians are taken


def llama_shaped() -> Policy:
    """A random 135M-parameter policy of SmolLM2's shape; its tokens mean nothing, its cost is real."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return Policy(LlamaForCausalLM(config).eval(), character_tokenizer(), "llama-135m", "compact")


class _Fixed:
    """A problem with given prompt tokens, for models whose tokenizer does not matter here."""

    task, question, compact, difficulty = "fixed", "", "", {}

    def __init__(self, ids):
        self.ids = ids

    def reward(self, response):
        return 0.0


def prompts_of(case: str):
    """(policy, problems, responses, max_new_tokens) of a case."""
    if case == "llama":
        policy = llama_shaped()
        generator = torch.Generator().manual_seed(0)
        problems = [_Fixed(torch.randint(2, 49152, (64,), generator=generator).tolist()) for _ in range(16)]
        policy.prompt_ids = lambda problem: problem.ids
        policy.tokenizer.batch_decode = lambda rows, **_: [""] * len(rows)
        return policy, problems, 8, 16
    n = int(case.removeprefix("thinker-"))
    return load_policy("thinker"), load_task(TINY_TASKS).sample(n, seed=0), 8, 64
