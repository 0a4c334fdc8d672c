"""A critic fine-tuned on a real model, its training chosen by validation, to hold the probe against."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ..baselines.critic import Critic
from ..files import provenance
from ..policies import Policy, load_policy
from ..rollouts import build_rollouts, leave_one_out_mean
from ..stats import agreement, pair_reduction
from ..tasks import Problem, load_task
from .common import SPLITS, piece, splits
from .readings import READ, SEED, SHOTS, Setting

CRITIC_RATES = (3e-5, 1e-4)  # validation prompts of the first task choose one for each model
CRITIC_EPOCHS, CRITIC_MINIBATCH = 4, 16  # the epochs are the most; validation prompts choose how many count


def only_tokens_of(policy: Policy, prompts: Sequence[list[int]]) -> tuple[Policy, list[list[int]]]:
    """A copy of the policy whose embedding has the rows of these prompts' tokens only, and the prompts in its ids.

    A row that no prompt reads has no gradient, and AdamW without weight decay leaves it alone; with a vocabulary of
    262144 tokens it is most of what an optimizer step would go through. The copy is a trunk: it gives no logits.
    """
    tokens, ids = np.unique(np.concatenate(prompts), return_inverse=True)
    _ = policy.ways  # compared while it still gives logits
    policy = copy.deepcopy(policy)
    embedding = policy.model.get_input_embeddings()
    embedding.weight = torch.nn.Parameter(embedding.weight.detach()[torch.from_numpy(tokens)])
    embedding.num_embeddings, embedding.padding_idx = len(tokens), None
    policy.model.set_output_embeddings(torch.nn.Identity())
    return policy, [part.tolist() for part in np.split(ids, np.cumsum([len(prompt) for prompt in prompts])[:-1])]


def critic_epochs(policy: Policy, problems: Sequence[Problem], rewards: np.ndarray, fit: np.ndarray, held_out: np.ndarray,
                  learning_rate: float, epochs: int = CRITIC_EPOCHS) -> tuple[list[float], list[np.ndarray]]:  # fmt: skip
    """A critic fine-tuned from the policy on the mean rewards of the prompts `fit`, of which a fifth are kept for validation.

    policy: in float32, and left as it is. rewards: (P, M). The critic reads the same prompts as the policy.
    Returns, after each epoch, the mean squared error on the validation prompts, and the (H,) values of `held_out`.
    """
    policy, prompts = only_tokens_of(policy, [policy.prompt_ids(problem) for problem in problems])
    one = torch.ones(len(problems), 1, dtype=torch.long)
    rollouts = build_rollouts(
        policy, problems, prompts, torch.zeros_like(one)[..., None], one, torch.zeros(len(one), 1, 1)
    )
    rollouts = dataclasses.replace(rollouts, rewards=torch.from_numpy(rewards.mean(1, keepdims=True)))
    validation, taught = (np.sort(fit[part]) for part in splits(len(fit))[0][::-1])
    critic = Critic(learning_rate=learning_rate, minibatches=-(-len(taught) // CRITIC_MINIBATCH))
    critic.start(policy)
    errors, values = [], []
    # products in bfloat16, weights in float32; without the cache, which would keep the weights of the first step
    with torch.autocast(policy.device.type, dtype=torch.bfloat16, cache_enabled=False):
        for _ in range(epochs):
            critic.update(rollouts.select(taught), None)
            guess = critic.values(rollouts.select(validation), None)[:, 0].float().numpy()
            errors.append(float(((guess - rewards[validation].mean(1)) ** 2).mean()))
            values.append(critic.values(rollouts.select(held_out), None)[:, 0].float().numpy())
    return errors, values


def critic_split(name: str, one: Setting, rewards: np.ndarray, split: int, learning_rate: float) -> dict:
    """The measures of a critic on one split, as `measures_of` names them, and the validation error after each epoch.

    rewards: (P, M), as recorded. The epoch with the least validation error counts. Scored on the responses that the
    probe is scored on; the critic's value is the same for all responses to a prompt.
    """
    fit, held_out = splits(len(rewards))[split]
    problems = load_task(one.task, **one.settings).sample(len(rewards), seed=SEED)
    policy = load_policy(name, shots=SHOTS)  # in float32: in bfloat16 small updates vanish
    errors, values = critic_epochs(policy, problems, rewards, fit, held_out, learning_rate)
    y = leave_one_out_mean(torch.from_numpy(rewards[held_out]))[:, :READ].numpy()
    predicted = np.repeat(values[int(np.argmin(errors))][:, None], y.shape[1], 1)
    found = agreement(predicted, y)
    measures = {
        "mae": found["mae"], "r": found["r"], "variance_reduction": pair_reduction(predicted, rewards[held_out])
    }  # fmt: skip
    measures = {measure: round(float(value), 5) for measure, value in measures.items()}
    return {**measures, "validation_error": [round(error, 6) for error in errors]}


def critic_row(name: str, one: Setting, rewards: np.ndarray, rates: Sequence[float], folder: Path,
               log: Callable[[str], None]) -> tuple[dict, dict]:  # fmt: skip
    """The measures of a critic on every split, and how it was trained; splits that stand in the folder are taken as they are.

    The validation prompts of the first split choose one of the learning rates.
    """

    def part(split: int, rate: float) -> dict:
        path = folder / f"critic-{split}-{rate:g}.json"
        found = piece(path, lambda: critic_split(name, one, rewards, split, rate))
        log(f"{name}: {one.task}, critic, split {split}, learning rate {rate:g}: {found}")
        return found

    first = {rate: part(0, rate) for rate in rates}
    rate = min(first, key=lambda rate: min(first[rate]["validation_error"]))
    parts = [first[rate], *(part(split, rate) for split in range(1, SPLITS))]
    training = {
        "provenance": provenance(), "learning_rate": rate,
        "searched": {f"{rate:g}": min(found["validation_error"]) for rate, found in first.items()},
        "epochs": [int(np.argmin(found["validation_error"])) + 1 for found in parts],
    }  # fmt: skip
    return {measure: [found[measure] for found in parts] for measure in ("mae", "r", "variance_reduction")}, training
