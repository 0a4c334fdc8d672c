"""What is said of a policy on held-out problems: pass@k, the ways of working, and the texts that are kept."""

from __future__ import annotations

import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from support import ToyTask, tiny_policy

import poise_lab as pl
from poise_lab.evaluation import KEPT, evaluate, strategy_shares
from poise_lab.sampler import step_seed
from poise_lab.stats import pass_at_k
from poise_lab.tasks.strategies import STRATEGIES, strategy

CONFIG = dict(
    prompts=6, minibatches=2, max_new_tokens=6, layer=1, pool=2, eval_every=2, eval_prompts=5, eval_responses=3,
    learning_rate=1e-2, checkpoint_every=1,
)  # fmt: skip


def test_pass_at_k_is_the_share_of_subsets_with_a_right_response():
    rewards = np.array([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 0, 0.9, 0], [1, 1, 1, 1, 1]])
    for k in range(1, 6):
        subsets = list(itertools.combinations(range(5), k))
        by_hand = np.mean([[max(row[list(s)]) >= 1 for s in subsets] for row in rewards])
        assert pass_at_k(rewards, k) == pytest.approx(by_hand, abs=1e-12)
    assert pass_at_k(torch.tensor([[1.0, 0.0]]), 1) == 0.5
    many = np.arange(1100) < np.array([[0], [1], [550], [551]])  # C(1100, 550) is no float64
    assert pass_at_k(many[:1], 550) == 0 and pass_at_k(many[1:2], 550) == 0.5
    assert pass_at_k(many[2:3], 550) == pytest.approx(1, abs=1e-12) and pass_at_k(many[3:], 550) == 1
    for k in (0, 6):
        with pytest.raises(pl.PoiseLabError, match=f"pass@{k} of 5 responses"):
            pass_at_k(rewards, k)


@pytest.mark.parametrize(
    ("task", "response", "named"),
    [
        ("chain_sum", "<think></think>12", "at once"),
        ("chain_sum", "12", "at once"),
        ("spell_backward", "<think> </think>tac", "at once"),
        ("chain_sum", "<think>5;12</think>12", "in leaps"),
        ("chain_sum", "<think>2+3=5;5+7=12</think>12", "step by step"),
        ("spell_backward", "<think>3t2a1c</think>tac", "step by step"),
        ("spell_backward", "<think>ca|t:t</think>tac", "in leaps"),
        ("word_sorting", "<think>b1a2:a2b1</think>ab,ba", "step by step"),
        ("word_sorting", "<think>ab</think>ab,ba", "in leaps"),
        ("word_sorting", "</think>", "at once"),
    ],
)
def test_strategies(task, response, named):
    assert strategy(task, response) == named


def test_a_task_without_known_strategies_has_no_shares():
    assert strategy("leg_counting", "<think></think>4") is None
    rollouts = pl.sample_rollouts(tiny_policy(), ToyTask().sample(3, 0), 2, max_new_tokens=4)
    assert strategy_shares(rollouts) == {}


def test_the_figures_are_those_of_the_rollouts():
    """Against the bundled policy sampled here by the same seed: each figure by its definition."""
    policy, task = pl.load_policy("thinker"), pl.load_task(pl.TINY_TASKS)
    config = pl.TrainConfig(eval_responses=4, eval_prompts=12)
    problems = task.sample(12, 3)
    figures, samples = evaluate(policy, problems, pl.make_baseline("none"), config)
    seed = step_seed(config.seed, 0, "evaluation")
    rollouts = pl.sample_rollouts(policy, problems, 5, seed=seed, max_new_tokens=64)
    greedy = pl.sample_rollouts(policy, problems, 1, temperature=0, max_new_tokens=64)
    assert figures["accuracy"] == pytest.approx(rollouts.rewards[:, 1:].mean().item())
    assert figures["greedy_accuracy"] == greedy.rewards.mean().item()
    assert figures["pass_at_4"] == pass_at_k(rollouts.rewards, 4) >= figures["accuracy"]
    fresh = rollouts.rewards[:, 1:].double()
    noise = fresh.var(1).mean() / 4
    assert figures["value_std"] == pytest.approx((fresh.mean(1).var() - noise).sqrt().item())
    assert figures["value_std"] < 0.95 * fresh.mean(1).std(correction=0)
    assert figures["held_out_length"] == rollouts.lengths[:, 1:].float().mean().item()
    ways = [strategy(p.task, text) for p, texts in zip(problems, rollouts.texts, strict=True) for text in texts[1:]]
    shares = {way: figures[f"share_{way.replace(' ', '_')}"] for way in STRATEGIES}
    assert shares == {way: ways.count(way) / 48 for way in STRATEGIES} and 0.5 < shares["at once"] < 1
    assert [s["greedy"] for s in samples] == [row[0] for row in greedy.texts]
    assert [s["sampled"] for s in samples] == [row[:2] for row in rollouts.texts]
    assert [s["rewards"] for s in samples] == rollouts.rewards[:, :2].tolist()
    assert "value" not in samples[0]  # this baseline predicts none


class Says(pl.Baseline):
    """A baseline with given values, (P, M)."""

    given: torch.Tensor

    def values(self, rollouts, internals):
        return self.given


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_accuracy_by_task_and_the_probe_against_fresh_responses(temperature):
    """Of every problem the first response is read, and the mean of the others is what the value should have been."""
    policy, problems, baseline = tiny_policy(), ToyTask().sample(9, 0), Says()
    baseline.given = torch.rand(9, 1, generator=torch.Generator().manual_seed(0))
    config = pl.TrainConfig(**CONFIG, temperature=temperature)
    figures, _ = evaluate(policy, problems, baseline, config)
    seed = step_seed(config.seed, 0, "evaluation")
    rewards = pl.sample_rollouts(policy, problems, 4, seed=seed, max_new_tokens=6, temperature=temperature).rewards
    own, others = rewards[:, 0].numpy(), rewards[:, 1:].mean(1).numpy()
    for task in ("even", "odd"):
        of_task = [value for problem, value in zip(problems, others, strict=True) if problem.task == task]
        assert figures[f"accuracy_{task}"] == pytest.approx(np.mean(of_task))
    assert figures["accuracy_even"] != figures["accuracy_odd"]
    values = baseline.given[:, 0].numpy()
    assert figures["probe_r_fresh"] == pytest.approx(np.corrcoef(values, others)[0, 1], abs=1e-6)
    assert figures["probe_mae_fresh"] == pytest.approx(np.abs(values - others).mean(), abs=1e-6)
    assert figures["probe_r_fresh"] != pytest.approx(np.corrcoef(values, own)[0, 1], abs=0.01)


@pytest.mark.parametrize("changes", [dict(eval_responses=1), dict(eval_prompts=1)])
def test_where_v_has_no_spread_to_measure_there_is_none(changes):
    config = pl.TrainConfig(**{**CONFIG, **changes})
    problems = ToyTask().sample(config.eval_prompts, 0)
    figures, _ = evaluate(tiny_policy(), problems, pl.make_baseline("none"), config)
    assert "value_std" not in figures and np.isfinite(list(figures.values())).all()


def samples_of(folder):
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_samples_are_kept_at_every_evaluation_and_resumed(tmp_path):
    def run(out, steps, resume=False):
        config = pl.TrainConfig(**CONFIG, steps=steps)
        baseline = pl.make_baseline("poise", warmup=1)
        pl.Trainer(tiny_policy(), ToyTask(), baseline, config, out=out, resume=resume, progress=False).run()

    run(tmp_path / "whole", 4)
    kept = samples_of(tmp_path / "whole")
    assert [record["step"] for record in kept] == [0, 2, 4]
    assert all(len(record["samples"]) == min(KEPT, 5) for record in kept)
    assert len({json.dumps([s["prompt"] for s in record["samples"]]) for record in kept}) == 1
    assert "value" in kept[-1]["samples"][0] and "value" not in kept[0]["samples"][0]

    run(tmp_path / "killed", 3)
    with open(tmp_path / "killed" / "samples.jsonl", "a") as f:  # killed after the texts, before the step's metrics
        f.write(json.dumps({"step": 4, "samples": []}) + "\n" + '{"step": 5, "sam')
    shutil.rmtree(tmp_path / "killed" / "checkpoints" / "step-000003")
    run(tmp_path / "killed", 4, resume=True)
    assert samples_of(tmp_path / "killed") == kept  # what was evaluated behind the checkpoint is gone
