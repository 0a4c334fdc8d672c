"""The first stage of the bundled policy (`thinker` adds the others): a small transformer taught by a careless demonstrator.

The demonstrator reasons step by step and slips where people do: it forgets a carry or a borrow,
swaps two neighbouring consonants, swaps two words whose first letters lie close together. Each such
hard spot slips with probability `SLIP`, the rest of the demonstration follows from the slip. So the
policy's mistakes are in its reasoning, they depend on the content of a problem and not only on its
size, and the right step stays the likelier one: reinforcement learning can repair it.

Left out on purpose: mixed precision, packing, dropout, gradient accumulation; two CPU cores do not need them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from ..files import provenance, write_json
from ..generate import sample_rollouts
from ..policies import Policy
from ..rollouts import Rollouts
from ..stats import pass_at_k, value_spread
from ..tasks import END_OF_REASONING, LAPTOP_SETTINGS, START_OF_REASONING, TINY_TASKS, Problem, load_task
from ..tasks.strategies import STRATEGIES, strategy

SLIP = {"chain_sum": 0.38, "spell_backward": 0.42, "word_sorting": 0.4}
CLOSE_LETTERS = 3  # first letters this close in the alphabet make two words hard to order


# --- the careless demonstrator -------------------------------------------------------------------


def demonstrate_chain_sum(problem: Problem, rng: Random, slip: float, broken: bool = False) -> tuple[str, str]:
    """Running totals; at a step that crosses a ten the carry or borrow is sometimes forgotten.

    broken: a total that falls below zero loses its sign.
    """
    terms = [int(t) for t in re.findall(r"[+-]?\d+", problem.compact)]
    total, steps = terms[0], []
    for term in terms[1:]:
        result = total + term
        crosses_ten = total // 10 + math.trunc(term / 10) != result // 10
        if broken and result < 0 <= total:
            result = -result
        elif crosses_ten and rng.random() < slip:
            result += -10 if term > 0 else 10
        steps.append(f"{total}{term:+d}={result}")
        total = result
    return ";".join(steps), str(total)


def demonstrate_spell_backward(problem: Problem, rng: Random, slip: float, broken: bool = False) -> tuple[str, str]:
    """Numbered letters from last to first; two neighbouring consonants are sometimes swapped."""
    word = problem.compact.removeprefix("back:")
    letters = list(word[::-1])
    i = 0
    while i + 1 < len(letters):
        hard = all(c.lower() not in "aeiou" for c in letters[i : i + 2])
        if hard and rng.random() < slip:
            letters[i], letters[i + 1] = letters[i + 1], letters[i]
            i += 1
        i += 1
    steps = [f"{len(word) - i}{c}" for i, c in enumerate(letters)]
    return "".join(steps), "".join(letters)


def demonstrate_word_sorting(problem: Problem, rng: Random, slip: float, broken: bool = False) -> tuple[str, str]:
    """Numbered initials as given, then in order; words with close initials are sometimes swapped.

    broken: the order is upwards, whatever was asked.
    """
    words = re.split("[<>,]", problem.compact)[1:]
    downwards = ">" in problem.compact and not broken
    order = sorted(range(len(words)), key=words.__getitem__, reverse=downwards)
    i = 0
    while i + 1 < len(order):
        first, second = words[order[i]], words[order[i + 1]]
        hard = abs(ord(first[0]) - ord(second[0])) <= CLOSE_LETTERS
        if hard and rng.random() < slip:
            order[i], order[i + 1] = order[i + 1], order[i]
            i += 1
        i += 1
    initials = [f"{word[0]}{k}" for k, word in enumerate(words, 1)]
    ordered = "".join(initials[k] for k in order)
    return f"{''.join(initials)}:{ordered}", ",".join(words[k] for k in order)


DEMONSTRATORS = {
    "chain_sum": demonstrate_chain_sum,
    "spell_backward": demonstrate_spell_backward,
    "word_sorting": demonstrate_word_sorting,
}


def demonstrate(problem: Problem, rng: Random, slip: float | None = None) -> str:
    """A response to the problem: reasoning inside think tags, then the answer.

    slip: probability of a mistake at each hard spot; the task's own by default, 0 for a perfect one.
    """
    slip = SLIP[problem.task] if slip is None else slip
    reasoning, answer = DEMONSTRATORS[problem.task](problem, rng, slip)
    return f"{START_OF_REASONING}{reasoning}{END_OF_REASONING}{answer}"


# --- the policy ----------------------------------------------------------------------------------


def character_tokenizer() -> PreTrainedTokenizerFast:
    """One token per printable ASCII character, one for each think tag."""
    special = ["<pad>", "<eos>", "<unk>"]
    vocabulary = special + ["\n"] + [chr(c) for c in range(32, 127)]
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    fast.add_tokens([START_OF_REASONING, END_OF_REASONING])
    return fast


def new_policy(width: int = 128, layers: int = 4, seed: int = 0) -> Policy:
    """An untrained policy of the bundled shape (Qwen3 architecture)."""
    tokenizer = character_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=max(1, width // 64),
        head_dim=32,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    return Policy(Qwen3ForCausalLM(config), tokenizer, "new", wording="compact")


def pretrain(
    policy: Policy,
    *,
    steps: int = 5000,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    seed: int = 0,
    demonstrate: Callable[[Problem, Random], str] = demonstrate,
    progress: bool = True,
) -> list[float]:
    """Teach a policy the demonstrations by next-token cross-entropy on the responses.

    demonstrate: gives a response to a problem. Every step draws new problems. Returns the mean loss per token of each step, in nats.
    """
    task, rng, device = load_task(TINY_TASKS), Random(seed), policy.device
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = min(250, steps // 2)
    schedule = torch.optim.lr_scheduler.LambdaLR(  # linear warm-up, then a cosine to zero
        optimizer,
        lambda step: min((step + 1) / (warmup + 1), 0.5 + 0.5 * math.cos(math.pi * step / steps)),
    )
    eos, losses, batches = policy.eos_token_ids[0], [], []
    policy.model.train()
    for step in tqdm(range(steps), desc="pretrain", disable=not progress):
        if not batches:  # 32 batches at a time, of similar lengths each: less padding
            examples = []
            for problem in task.sample(32 * batch_size, seed=1_000_000 * seed + step):
                prompt = policy.prompt_ids(problem)
                response = policy.tokenizer.encode(demonstrate(problem, rng)) + [eos]
                examples.append((prompt + response, len(prompt)))
            examples.sort(key=lambda e: len(e[0]))
            batches = [examples[i : i + batch_size] for i in range(0, len(examples), batch_size)]
            rng.shuffle(batches)
        batch = batches.pop()
        ids = torch.zeros(len(batch), max(len(tokens) for tokens, _ in batch), dtype=torch.long)
        labels = torch.full_like(ids, -100)
        for i, (tokens, start) in enumerate(batch):
            ids[i, : len(tokens)] = torch.tensor(tokens)
            labels[i, start : len(tokens)] = torch.tensor(tokens[start:])
        # right padding under causal attention: no real token sees a pad, so no mask is needed
        logits = policy.model(input_ids=ids.to(device), use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten().to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    policy.model.eval()
    return losses


# --- the card ------------------------------------------------------------------------------------


def describe(policy: Policy, problems: int = 400, responses: int = 16, seed: int = 1) -> dict:
    """Accuracy of a policy on the bundled tasks, by task and difficulty, on new problems.

    Per task: `accuracy`; `greedy_accuracy`; `pass_at_16`, or of as many responses as there are; `value_std`, the standard deviation over prompts of
    V(x), where the noise of estimating V(x) from `responses` responses is taken off; `parsed`, the
    share of responses with one closed reasoning span, an answer, and an end; `tokens`, mean length; and of each strategy
    its `share` among the responses, and their `accuracy`.
    """
    table = {}
    for name in LAPTOP_SETTINGS:
        sample = load_task(name).sample(problems, seed)
        rollouts = sample_rollouts(policy, sample, responses, seed=seed)
        greedy = sample_rollouts(policy, sample, 1, seed=seed, temperature=0)
        value = rollouts.rewards.mean(1)
        parsed = [
            text.count(START_OF_REASONING) == text.count(END_OF_REASONING) == 1
            and text.startswith(START_OF_REASONING)
            and bool(text.rpartition(END_OF_REASONING)[2])
            for group in rollouts.texts
            for text in group
        ]
        parsed = (torch.tensor(parsed).view_as(rollouts.finished) & rollouts.finished).float()
        by_difficulty = {}
        for setting in sample[0].difficulty:
            for level in sorted({p.difficulty[setting] for p in sample}):
                at = torch.tensor([p.difficulty[setting] == level for p in sample])
                by_difficulty[f"{setting}={level:g}"] = round(value[at].mean().item(), 3)
        table[name] = {
            "accuracy": round(value.mean().item(), 3),
            "greedy_accuracy": round(greedy.rewards.mean().item(), 3),
            f"pass_at_{responses}": round(pass_at_k(rollouts.rewards, responses), 3),
            "value_std": round(value_spread(rollouts.rewards), 3),
            "parsed": round(parsed.mean().item(), 4),
            "tokens": round(rollouts.lengths.float().mean().item(), 1),
            "accuracy_by_difficulty": by_difficulty,
            "strategies": _by_strategy(rollouts),
        }
    return table


def _by_strategy(rollouts: Rollouts) -> dict[str, dict[str, float]]:
    used = [
        [strategy(p.task, text) for text in texts] for p, texts in zip(rollouts.problems, rollouts.texts, strict=True)
    ]
    table = {}
    for name in STRATEGIES:
        at = torch.tensor([[one == name for one in row] for row in used])
        if at.any():
            accuracy = rollouts.rewards[at].mean().item()
            table[name] = {"share": round(at.float().mean().item(), 3), "accuracy": round(accuracy, 3)}
    return table


def save_with_card(policy: Policy, folder: str | Path, seconds: float, **facts) -> dict:
    """Write the bundled policy with its card: these facts, what it can do, and what made it. Returns the card."""
    policy.save(folder)
    card = {
        **facts,
        "licence": "as this repository",
        "parameters": sum(p.numel() for p in policy.model.parameters()),
        "minutes": round(seconds / 60, 1),
        "performance": describe(policy),
        **provenance(),
    }
    write_json(Path(folder) / "card.json", card)
    return card
