"""What a policy can do with held-out problems, what it writes, and how good the baselines of a batch were."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .baselines.base import Baseline, checked_values
from .config import TrainConfig
from .generate import sample_rollouts
from .internals import read_internals
from .policies import Policy
from .rollouts import Rollouts, leave_one_out_mean
from .sampler import step_seed
from .stats import agreement, pass_at_k, value_spread, variance_reduction
from .tasks import Problem, looked_for
from .tasks.strategies import STRATEGIES, strategy

KEPT = 24  # problems whose responses are kept as texts, the same ones at every evaluation


def evaluate(
    policy: Policy, problems: Sequence[Problem], baseline: Baseline, config: TrainConfig
) -> tuple[dict, list[dict]]:
    """Figures of a policy on problems that it is not trained on, and samples of what it writes to the first of them.

    The figures: `accuracy`, the mean reward of sampled responses, in all and by task; `greedy_accuracy`; `pass_at_K`, the
    share of problems solved at least once in K = `eval_responses` tries; `value_std`, the standard deviation of V(x)
    over the problems, the noise of estimating V(x) taken off (for at least 2 problems and responses);
    `held_out_length`, tokens of a sampled response, and `share_NAME` of each strategy; and the probe against V(x) from
    responses that it has not read, `probe_r_fresh` and `probe_mae_fresh`. The same random numbers are drawn at every
    evaluation of a run.
    """
    asked = dict(seed=step_seed(config.seed, 0, "evaluation"), max_new_tokens=config.max_new_tokens)
    rollouts = sample_rollouts(policy, problems, config.eval_responses + 1, temperature=config.temperature, **asked)
    greedy = sample_rollouts(policy, problems, 1, temperature=0, **asked)
    read, fresh = rollouts.select(responses=[0]), rollouts.select(responses=slice(1, None))
    value = fresh.rewards.mean(1)
    result = {
        "accuracy": value.mean().item(),
        "greedy_accuracy": greedy.rewards.mean().item(),
        f"pass_at_{config.eval_responses}": pass_at_k(rollouts.rewards, config.eval_responses),
        "held_out_length": fresh.lengths.float().mean().item(),
    }
    if min(fresh.rewards.shape) > 1:
        result["value_std"] = value_spread(fresh.rewards)
    for task in sorted(set(rollouts.tasks)):
        at = torch.tensor([name == task for name in rollouts.tasks])
        result[f"accuracy_{task}"] = value[at].mean().item()
    result |= strategy_shares(fresh)
    predicted = checked_values(baseline, read, read_internals(policy, read, config.layer, config.pool))
    if predicted is not None:
        score = agreement(predicted, value)
        result |= {"probe_r_fresh": score["r"], "probe_mae_fresh": score["mae"]}
    return result, _samples(rollouts, greedy, predicted)


def baseline_metrics(rollouts, advantages: torch.Tensor | None, values: torch.Tensor | None) -> dict[str, float]:
    """How good the baselines of a batch were, for both engines. NaN where that is not defined.

    rollouts: anything with rewards (P, M), responses and partner_rewards(). advantages: (P, M), each a reward minus
    something that this reward is not in. values: (P, M), predicted before these responses were learned from; their
    prompts may have come before.
    """
    metrics, rewards = {}, rollouts.rewards
    if advantages is not None:
        metrics["variance_reduction"] = variance_reduction(advantages, rewards)
    if rollouts.responses > 1:  # what the same rewards would give under RLOO
        metrics["variance_reduction_rloo"] = variance_reduction(rewards - leave_one_out_mean(rewards), rewards)
    if values is not None:
        score = agreement(values, rollouts.partner_rewards())
        metrics |= {"probe_r_partner": score["r"], "probe_mae_partner": score["mae"]}
    return metrics


def what_to_change(reward: float, problem: Problem, written: str, stopped: int = 0) -> str:
    """What may help where every response has the same reward.

    written: what the policy wrote to a problem. stopped: responses on which a function of one's own raised an error.
    """
    if stopped:
        return f"the reward function stopped with an error on {stopped} of the responses, which count as wrong: mend it first"
    if reward not in (0, 1):
        return "give a reward that is higher for better responses"
    counts = looked_for(problem) if reward == 0 and isinstance(problem, Problem) else None
    hint = f"what counts is {counts}: where {problem.answer!r} is right, the policy wrote {written[-120:]!r}; "
    return f"{hint if counts else ''}choose easier or harder settings of the task, or examples in front of each problem (shots)"


def strategy_shares(rollouts: Rollouts) -> dict[str, float]:
    """`share_NAME` of each strategy among the responses, of those tasks whose strategies are known."""
    used = [
        strategy(problem.task, text)
        for problem, texts in zip(rollouts.problems, rollouts.texts, strict=True)
        for text in texts
    ]
    known = [name for name in used if name]
    return {f"share_{name.replace(' ', '_')}": known.count(name) / len(known) for name in STRATEGIES if known}


def _samples(rollouts: Rollouts, greedy: Rollouts, predicted: torch.Tensor | None) -> list[dict]:
    """The greedy response to each of a few problems and two sampled ones, with the value read from the first of these."""
    return [
        {
            "task": problem.task,
            "prompt": problem.compact,
            "greedy": greedy.texts[i][0],
            "greedy_reward": greedy.rewards[i, 0].item(),
            "sampled": rollouts.texts[i][:2],
            "rewards": rollouts.rewards[i, :2].tolist(),
            **({} if predicted is None else {"value": round(predicted[i].item(), 4)}),
        }
        for i, problem in enumerate(rollouts.problems[:KEPT])
    ]
