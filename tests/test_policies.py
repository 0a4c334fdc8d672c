from __future__ import annotations

import copy
import dataclasses
import json
import math
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import EOS, PAD, ToyProblem, ToyTask, plain_logits, response, tiny_policy
from transformers import AutoModelForCausalLM, GenerationConfig

import poise_lab as pl
from poise_lab.cli import main
from poise_lab.internals import forward_rows
from poise_lab.models.pretrain import character_tokenizer
from poise_lab.tasks import LAPTOP_SETTINGS

FOLDER = pl.data_dir() / "thinker-policy"


# --- the bundled policy --------------------------------------------------------------------------


def test_bundled_policy_loads_without_our_code():
    """Stock classes, our package not imported, and the same greedy answer as through the package."""
    program = f"""
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({str(FOLDER)!r})
tokenizer = AutoTokenizer.from_pretrained({str(FOLDER)!r})
assert type(model).__module__.startswith("transformers.models.qwen3"), type(model)
assert type(tokenizer).__module__.startswith("transformers."), type(tokenizer)
assert "poise_lab" not in sys.modules
ids = tokenizer("back:word", return_tensors="pt", return_token_type_ids=False)
out = model.generate(**ids, do_sample=False, max_new_tokens=48)
print(tokenizer.decode(out[0, ids["input_ids"].shape[1]:], skip_special_tokens=True))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "<think></think>drow"


def test_bundled_policy_is_small_and_only_safetensors():
    files = {f.name for f in FOLDER.iterdir()}
    assert sum(f.stat().st_size for f in FOLDER.iterdir()) <= 5_000_000
    assert not any(name.endswith((".bin", ".pt", ".pkl", ".py")) for name in files)
    assert "auto_map" not in json.loads((FOLDER / "config.json").read_text())


def test_card_says_how_it_was_made(bundled):
    card = json.loads((FOLDER / "card.json").read_text())
    assert card["command"].startswith("poise-lab pretrain ") and "--seed" in card["command"]
    assert card["data"]["tasks"] == LAPTOP_SETTINGS
    assert card["parameters"] == sum(p.numel() for p in bundled.model.parameters())
    assert {"torch", "transformers", "reasoning-gym"} <= set(card["versions"])
    assert card["minutes"] < 45
    assert set(card["performance"]) == set(LAPTOP_SETTINGS)
    for row in card["performance"].values():
        assert 0.1 <= row["accuracy"] <= 0.5
        assert row["value_std"] >= 0.2
        assert row["parsed"] >= 0.95
        assert len(row["accuracy_by_difficulty"]) > 1


@pytest.mark.parametrize("name", sorted(LAPTOP_SETTINGS))
def test_card_holds_on_new_problems(bundled, name):
    """Each figure of the card, measured again; the bounds are 5 standard errors of both measurements."""
    row = json.loads((FOLDER / "card.json").read_text())["performance"][name]
    n, m = 150, 8
    rollouts = pl.sample_rollouts(bundled, pl.load_task(name).sample(n, seed=77), m, seed=77)
    value = rollouts.rewards.double().mean(1)
    spread = value.std().item()
    assert abs(value.mean().item() - row["accuracy"]) < 5 * spread * math.sqrt(1 / n + 1 / 400)
    true_std = math.sqrt(value.var().item() - rollouts.rewards.double().var(1).mean().item() / m)
    # the standard error of a standard deviation is about sd / sqrt(2 n); these spread less than a normal's
    assert abs(true_std - row["value_std"]) < 5 * spread * math.sqrt(0.5 / n + 0.5 / 400)
    parsed = [
        t.count("<think>") == t.count("</think>") == 1 and t.startswith("<think>") and not t.endswith("</think>")
        for group in rollouts.texts
        for t in group
    ]
    assert sum(parsed) / len(parsed) > 0.95 and rollouts.finished.double().mean() > 0.95


# --- the tokenizer -------------------------------------------------------------------------------


def test_tokenizer_round_trip_over_printable_ascii(bundled):
    text = "".join(map(chr, range(32, 127))) + "\n"
    for tokenizer in (character_tokenizer(), bundled.tokenizer):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert len(ids) == len(set(ids)) == len(text)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
        whole = "<think>  a b;1+2 =3</think> x ,y"
        assert tokenizer.decode(tokenizer.encode(whole, add_special_tokens=False)) == whole


def test_think_tags_are_one_token(bundled):
    for tokenizer in (character_tokenizer(), bundled.tokenizer):
        assert len(tokenizer.encode("<think>", add_special_tokens=False)) == 1
        assert len(tokenizer.encode("</think>", add_special_tokens=False)) == 1
    assert len(bundled.end_of_reasoning) == 1


def test_unknown_characters_do_not_break(bundled):
    assert bundled.tokenizer.encode("é", add_special_tokens=False) == [bundled.tokenizer.unk_token_id]


# --- loading -------------------------------------------------------------------------------------


def spoken_to(tokenizer, wording="compact", **how) -> pl.Policy:
    return pl.Policy(tiny_policy().model, tokenizer, "tiny", wording, **how)


def asked(*questions) -> list:
    return pl.load_task([{"question": q, "answer": "12"} for q in questions]).problems


def test_a_character_without_a_token_is_told_once(recwarn):
    """Questions that differ in it alone are the same to the policy."""
    policy = spoken_to(tiny_policy().tokenizer)
    times, over, plus = asked("3×4=", "3÷4=", "3+4=")
    assert policy.prompt_ids(plus) and not recwarn.list
    assert policy.prompt_ids(times) == policy.prompt_ids(over)
    (told,) = recwarn.list
    assert str(told.message).startswith("policy 'tiny' has no token for '×', so prompts do not say it")
    template = spoken_to(tiny_policy().tokenizer, "question", template="Q: {question}\nA:")
    shown = spoken_to(tiny_policy().tokenizer, shots=1)
    for name, other in (("template", template), ("shown", shown)):
        other.name = name
        other.prompt_ids(times)
    said = [str(w.message).partition(", so")[0] for w in recwarn.list[1:]]
    assert said == [f"policy {name!r} has no token for '×'" for name in ("template", "shown")]


def test_no_warning_where_the_token_means_something_else(recwarn):
    """Byte-level vocabularies name one, and none of their texts becomes it."""
    named, same = tiny_policy().tokenizer, tiny_policy().tokenizer
    named.unk_token = None
    same.eos_token = same.unk_token
    (times, *_), tokenizer = asked("3×4="), tiny_policy().tokenizer
    for policy in (spoken_to(named), spoken_to(same)):
        assert policy.prompt_ids(times)
    policy = spoken_to(tokenizer, "question", template="<unk>Q: {question}\nA:")
    assert tokenizer.unk_token_id in policy.prompt_ids(asked("3+4=")[0]) and not recwarn.list


def test_no_warning_of_a_problem_that_the_library_made(bundled, recwarn):
    problem = next(p for p in pl.load_task("word_sorting").sample(2000, 1) if "ê" in p.compact)
    assert bundled.tokenizer.unk_token_id in bundled.prompt_ids(problem) and not recwarn.list


def test_a_folder_that_is_called_like_a_policy_is_told(tmp_path, monkeypatch, qwen):
    qwen.save(tmp_path / "thinker")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(
        UserWarning, match="^'thinker' is the policy of that name, .* write ./thinker for the folder$"
    ) as told:
        assert pl.load_policy("thinker").context != qwen.context
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for folder in ("./thinker", Path("thinker")):
            assert pl.load_policy(folder).context == qwen.context


def test_save_and_load(tmp_path, policy):
    policy.save(tmp_path / "p")
    again = pl.load_policy(tmp_path / "p")
    assert type(again.model) is type(policy.model)
    assert again.wording == "compact"
    assert again.eos_token_ids == policy.eos_token_ids
    ids = [5, 9, 30, 12]
    assert torch.equal(plain_logits(again, ids).logits, plain_logits(policy, ids).logits)


@pytest.mark.parametrize("there", [False, True])
def test_a_policy_is_saved_whole_or_not_at_all(tmp_path, policy, there):
    """Without poise_lab.json, its last file, a folder would be spoken to in another way, and nothing would say so."""
    folder = tmp_path / "saved"
    if there:
        policy.save(folder)
        (folder / "own.txt").write_text("stays")
    before = {path.name: path.read_bytes() for path in folder.glob("*")}

    class Full:
        def __getattr__(self, name):
            return getattr(policy.tokenizer, name)

        def save_pretrained(self, to):
            policy.tokenizer.save_pretrained(to)
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        pl.Policy(policy.model, Full(), policy.name, wording="compact", tags=("<a>", "</a>")).save(folder)
    assert {path.name: path.read_bytes() for path in folder.glob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["saved"] * there
    policy.save(folder)
    assert before.keys() <= {path.name for path in folder.iterdir()} and pl.load_policy(folder).wording == "compact"


@pytest.mark.parametrize(
    "given, says",
    [
        (dict(name=5), "policy=5 is no name"),
        (dict(name="thinker", device="nosuch"), "policy 'thinker' cannot be put on device 'nosuch'"),
        (dict(name="thinker", template="latin.txt"), "template latin.txt cannot be read"),
        (dict(name="run"), "folder run is no run folder: it has no readable config.json"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(tmp_path, monkeypatch, given, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes("{question} \xe9".encode("latin-1"))
    (tmp_path / "run" / "checkpoints" / "step-000001").mkdir(parents=True)  # copied without its config.json
    (tmp_path / "run" / "metrics.jsonl").touch()
    with pytest.raises(pl.PoiseLabError, match=says):
        pl.load_policy(**given)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(pl.PoiseLabError, match="unknown policy 'nosuch'; known: thinker"):
        pl.load_policy("nosuch")


@pytest.mark.parametrize("name", ["/no/such/folder", "./nosuch", "a/b/c"])
def test_folder_that_is_not_there(name):
    with pytest.raises(pl.PoiseLabError, match="unknown policy"):
        pl.load_policy(name)


def test_folder_that_is_no_model(tmp_path, qwen):
    with pytest.raises(pl.PoiseLabError, match="holds no model: config.json is missing"):
        pl.load_policy(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(pl.PoiseLabError, match="holds no model: there is no .safetensors"):
        pl.load_policy(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(pl.PoiseLabError, match="could not be loaded") as e:
        pl.load_policy(tmp_path)
    assert "\n" not in str(e.value)


def test_truncated_weights(tmp_path, qwen):
    qwen.save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(pl.PoiseLabError, match="could not be loaded") as e:
        pl.load_policy(tmp_path)
    assert "\n" not in str(e.value)


def test_unknown_wording(tmp_path, qwen):
    qwen.save(tmp_path)
    (tmp_path / "poise_lab.json").write_text('{"wording": "latin"}')
    with pytest.raises(pl.PoiseLabError, match="asks for wording 'latin'; known"):
        pl.load_policy(tmp_path)


def test_no_end_of_sequence_token():
    model, tokenizer = tiny_policy().model, character_tokenizer()
    model.generation_config.eos_token_id = None
    assert pl.Policy(model, tokenizer, "with the tokenizer's").eos_token_ids == [EOS]
    tokenizer.eos_token = None
    with pytest.raises(pl.PoiseLabError, match="has no end-of-sequence token"):
        pl.Policy(model, tokenizer, "without")


def test_the_padding_side_of_the_tokenizer_does_not_matter(policy, toys):
    """Rows are laid out by us: prompts of several lengths give the same tokens and the same states."""
    found = {}
    for side in ("left", "right"):
        tokenizer = copy.deepcopy(policy.tokenizer)
        tokenizer.padding_side = side
        other = dataclasses.replace(policy, tokenizer=tokenizer)
        rollouts = pl.sample_rollouts(other, toys, responses=2, seed=0, max_new_tokens=8)
        found[side] = rollouts, pl.read_internals(other, rollouts, layer=1, pool=3)
    (a, x), (b, y) = found.values()
    assert len({len(ids) for ids in a.prompt_ids}) > 1
    assert a.prompt_ids == b.prompt_ids and (a.response_ids == b.response_ids).all() and a.texts == b.texts
    assert (x.features() == y.features()).all() and (x.logprobs == y.logprobs).all()


def test_no_pad_token(toys):
    """Padding is never looked at: without a pad token the same responses come out."""
    with_pad, without = tiny_policy(), tiny_policy()
    without.tokenizer.pad_token = None
    without.model.config.pad_token_id = without.model.generation_config.pad_token_id = None
    assert without.tokenizer.pad_token_id is None
    a, b = (pl.sample_rollouts(p, toys, 2, seed=0, max_new_tokens=12) for p in (with_pad, without))
    assert a.pad_id == PAD and b.pad_id == EOS
    assert torch.equal(a.lengths, b.lengths) and len(a.lengths.unique()) > 1
    assert torch.equal(a.response_ids[a.mask], b.response_ids[b.mask])
    assert torch.equal(pl.read_internals(with_pad, a).features(), pl.read_internals(without, b).features())


def test_a_pad_token_without_an_embedding_is_not_used(toys):
    """Such as tokenizer.add_special_tokens makes, where the model's embeddings are not made more."""
    policy, other = tiny_policy(), tiny_policy()
    other.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert other.tokenizer.pad_token_id == other.model.config.vocab_size and (policy.pad_id, other.pad_id) == (PAD, EOS)
    a, b = (pl.sample_rollouts(p, toys, 2, seed=0, max_new_tokens=12) for p in (policy, other))
    assert (
        b.pad_id == EOS and len(b.lengths.unique()) > 1 and torch.equal(a.response_ids[a.mask], b.response_ids[b.mask])
    )
    assert torch.equal(pl.read_internals(policy, a).features(), pl.read_internals(other, b).features())


# --- prompts, layers, head -----------------------------------------------------------------------


def test_wordings(sums, qwen):
    assert qwen.tokenizer.decode(qwen.prompt_ids(sums[0])) == sums[0].compact
    plain = pl.Policy(qwen.model, character_tokenizer(), "plain", "question")
    assert plain.tokenizer.decode(plain.prompt_ids(sums[0])) == sums[0].question
    plain.tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    assert plain.tokenizer.decode(plain.prompt_ids(sums[0])) == f"[user]{sums[0].question}[assistant]"


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_model_in_training_mode_is_read_without_dropout(family, toys):
    policy = tiny_policy(family, **({} if family == "gpt2" else {"attention_dropout": 0.5}))
    rollouts = pl.sample_rollouts(policy, toys, 2, seed=0, max_new_tokens=8)
    expected = pl.read_internals(policy, rollouts, layer=1, pool=3)
    for _ in range(2):
        policy.model.train()
        sampled = pl.sample_rollouts(policy, toys, 2, seed=0, max_new_tokens=8)
        assert torch.equal(sampled.response_ids, rollouts.response_ids)
        policy.model.train()
        found = pl.read_internals(policy, rollouts, layer=1, pool=3)
        assert torch.equal(found.features(), expected.features()) and torch.equal(found.logprobs, expected.logprobs)
        policy.model.train()
        assert torch.allclose(
            forward_rows(policy, rollouts, torch.arange(12))[0], found.logprobs.flatten(0, 1), atol=1e-5
        )


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda w: {f"other.{name}": v for name, v in w.items()}, "36 weights are missing from its files"),
        (lambda w: {name: v for name, v in w.items() if "layers.1" not in name}, "11 weights are missing from its files"),
        (lambda w: {n: v[:, :-1].clone() if n.endswith("q_proj.weight") else v for n, v in w.items()}, "have another shape|size"),
        (lambda w: w | {"model.layers.3.mlp.up_proj.weight": torch.ones(32, 16)}, "1 weights are in its files, but not"),
    ],
    ids=["foreign names", "a layer less", "shapes", "a layer more"],
)  # fmt: skip
def test_weights_that_do_not_fit_the_config(tmp_path, qwen, change, words):
    qwen.save(tmp_path)
    weights = tmp_path / "model.safetensors"
    save_file(change(load_file(weights)), weights, {"format": "pt"})
    with pytest.raises(pl.PoiseLabError, match=words) as e:
        pl.load_policy(tmp_path)
    assert "\n" not in str(e.value)


def test_another_head_beside_the_models_own_is_nothing_to_it(tmp_path, qwen):
    qwen.save(tmp_path)
    weights = tmp_path / "model.safetensors"
    save_file(load_file(weights) | {"v_head.weight": torch.ones(1, 16)}, weights, {"format": "pt"})
    assert torch.equal(plain_logits(pl.load_policy(tmp_path), [5, 9]).logits, plain_logits(qwen, [5, 9]).logits)


def test_comparison_knows_a_head_with_a_cap_and_leaves_no_gradients():
    policy = tiny_policy("gemma3")
    assert not policy.ways.plain_head and tiny_policy("qwen3").ways.plain_head
    assert all(p.grad is None and p.requires_grad for p in policy.model.parameters())


def test_what_differs_is_named():
    """A model that looks ahead, and one that draws random numbers in evaluation; the global random state stays."""

    def broken(change):
        policy = tiny_policy("llama")
        change(policy.model)
        before = torch.get_rng_state()
        with pytest.raises(pl.PoiseLabError) as e:
            _ = policy.ways
        assert torch.equal(torch.get_rng_state(), before)
        return str(e.value)

    def ahead(model):
        inner = model.model.layers[1].mlp
        model.model.layers[1].mlp.forward = lambda x: type(inner).forward(inner, x + x.mean(1, keepdim=True))

    def random(model):
        model.lm_head.register_forward_hook(lambda module, args, out: out + torch.randn_like(out))

    assert "'llama'" in broken(ahead) and "has not read what comes later" in broken(ahead)
    assert "two passes over the same tokens" in broken(random)


def test_trainer_refuses_before_it_claims_a_folder(tmp_path, toys):
    policy = tiny_policy("llama")
    policy.model.lm_head.register_forward_hook(lambda module, args, out: out + torch.randn_like(out))
    with pytest.raises(pl.PoiseLabError, match="two passes over the same tokens"):
        pl.Trainer(policy, ToyTask(), pl.make_baseline("grpo"), out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("scaled", ["dynamic", "longrope"])
def test_positions_scaled_by_the_length_end_where_scaling_begins(scaled):
    """Beyond that length a key in the cache and the same key in a longer sequence differ; a row would depend on others."""
    rope = dict(rope_type=scaled, rope_theta=1e4, factor=2.0, original_max_position_embeddings=20)
    if scaled == "longrope":
        rope |= dict(short_factor=[1.0] * 4, long_factor=[4.0] * 4)
    policy = tiny_policy("llama", rope_parameters=rope)
    assert policy.context == 20
    with pytest.raises(pl.PoiseLabError, match="context of 20 tokens"):
        pl.sample_rollouts(policy, [ToyProblem("abcdefgh")], max_new_tokens=13)
    rollouts = pl.sample_rollouts(policy, [ToyProblem("abcdefgh"), ToyProblem("abc")], max_new_tokens=12, seed=1)
    assert (pl.read_internals(policy, rollouts, 1, 1).logprobs - rollouts.logprobs).abs().max() < 1e-4


def test_check_prints_every_way(capsys):
    assert main(["check", "thinker"]) == 0
    printed = capsys.readouterr().out
    for words in (
        "states of the decoder layers",
        "sampled with a cache, a common beginning run once",
        "scored, every row",
    ):
        assert words in printed
    assert "not taken" not in printed


def test_head_gives_the_models_logits(policy):
    ids = [5, 9, 30, 12, 77]
    with torch.no_grad():
        hidden = policy.model.base_model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
        assert torch.allclose(policy.head(hidden), plain_logits(policy, ids).logits[0], atol=1e-6)


def test_softcapping_bites(policies):
    """Without it the comparison above would not notice a head that forgets it."""
    gemma = policies["gemma3"]
    hidden = gemma.model.base_model(input_ids=torch.tensor([[5, 9, 30]]), use_cache=False).last_hidden_state[0]
    assert (gemma.head(hidden) - gemma.model.lm_head(hidden)).abs().max() > 0.1


def test_layers_and_context(policy):
    assert len(policy.layers) == 3
    assert policy.context == 128


def test_model_without_a_list_of_layers(qwen):
    class Odd(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.base_model = inner, torch.nn.Module()
            self.config, self.generation_config = inner.config, inner.generation_config

    with pytest.raises(pl.PoiseLabError, match="no list of decoder layers"):
        _ = pl.Policy(Odd(qwen.model), qwen.tokenizer, "odd").layers


def test_what_was_saved_is_what_is_loaded_where_another_policy_lay(tmp_path):
    """A template of the policy before, or a part of its weights, does not stay; a file of one's own does."""
    problem = ToyProblem("1")
    templated = dataclasses.replace(tiny_policy(), template="User: {question}\nAssistant:")
    templated.save(tmp_path / "p")
    for name in ("notes.txt", "model-00002-of-00002.safetensors"):
        (tmp_path / "p" / name).write_text("mine")
    plain = tiny_policy()
    plain.save(tmp_path / "p")
    assert pl.load_policy(tmp_path / "p").prompt_ids(problem) == plain.prompt_ids(problem)
    assert (tmp_path / "p" / "notes.txt").exists() and not (
        tmp_path / "p" / "model-00002-of-00002.safetensors"
    ).exists()


def test_a_policy_is_not_saved_where_a_file_is(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(pl.PoiseLabError, match="file cannot be written: Not a directory"):
        tiny_policy().save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_saved_policy_writes_in_transformers_as_it_does_here(tmp_path):
    """What ends a response here ends it there; what bends the probabilities was in no run, and is not kept."""
    policy = tiny_policy(ends=[5])  # the tokenizer's own end is another
    given = policy.model.generation_config
    given.update(
        repetition_penalty=1.7, min_new_tokens=9, temperature=0.7
    )  # the last without do_sample is refused when saved
    rollouts = pl.sample_rollouts(policy, [ToyProblem("31+4")], 1, temperature=0, max_new_tokens=30)
    policy.save(tmp_path / "p")
    assert policy.model.generation_config is given and given.temperature == 0.7
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "p")
    assert model.generation_config.eos_token_id == [1, 5]
    ids = torch.tensor([policy.prompt_ids(ToyProblem("31+4"))])
    written = model.generate(ids, max_new_tokens=30)[0, ids.shape[1] :].tolist()
    assert written == response(rollouts, 0, 0)
    assert pl.load_policy(tmp_path / "p").eos_token_ids == policy.eos_token_ids == [1, 5]
    given.update(do_sample=True, top_k=3)
    policy.save(tmp_path / "p")
    kept = GenerationConfig.from_pretrained(tmp_path / "p")
    assert (kept.do_sample, kept.temperature, kept.top_k, kept.repetition_penalty) == (True, 0.7, 3, None)
