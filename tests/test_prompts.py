"""How a policy is spoken to: system message, templates of one's own, what a template is told; kept by runs and exports."""

from __future__ import annotations

import json

import pytest
from support import tiny_policy

import poise_lab as pl
from poise_lab.cli import main

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)
DEAF = "{{ messages[-1].content }}="  # a template that leaves the system message out
RECORDS = [{"question": f"{a}+{b}", "answer": a + b} for a in range(1, 6) for b in range(1, 6)]


@pytest.fixture
def problem():
    return pl.load_task(RECORDS).problems[0]


def spoken_to(chat: str | None = None, begins: bool = False, **how) -> pl.Policy:
    """A random policy whose tokenizer has a chat template; begins: it puts a token in front of a text."""
    policy = tiny_policy("llama")
    policy.tokenizer.chat_template = chat
    if begins:
        policy.tokenizer.add_special_tokens({"bos_token": "<s>"})
        from tokenizers.processors import TemplateProcessing

        token = ("<s>", policy.tokenizer.bos_token_id)
        policy.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[token])
    return pl.Policy(policy.model, policy.tokenizer, "random", **{"wording": "question", **how})


def prompt(policy: pl.Policy, problem) -> str:
    return policy.tokenizer.decode(policy.prompt_ids(problem))


@pytest.mark.parametrize(
    "chat, how, text",
    [
        (CHAT, {}, "<user>1+1\n<assistant>"),
        (CHAT, dict(system="be brief"), "<system>be brief\n<user>1+1\n<assistant>"),
        (CHAT, dict(template_args={"enable_thinking": False}), "<user>1+1\n<assistant><think></think>"),
        (CHAT, dict(template="q: {question}\na:"), "q: 1+1\na:"),
        (CHAT, dict(template="q: {question}\n", wording="compact"), "q: 1+1\n"),
        (None, dict(template="{system} q: {question}", system="hi"), "hi q: 1+1"),
        (None, dict(template="[{{ messages[0].content }}]"), "[1+1]"),
        (None, dict(system="be brief"), "be brief\n\n1+1"),
        (CHAT, dict(system="be brief", wording="line"), "be brief\n\n1+1\nAnswer:"),
        (None, {}, "1+1"),
    ],
)
def test_prompts_by_hand(problem, chat, how, text):
    assert prompt(spoken_to(chat, **how), problem) == text


def test_a_text_begins_as_the_tokenizer_begins_texts(problem):
    for how in ({}, dict(template="{question}"), dict(wording="compact")):
        assert prompt(spoken_to(begins=True, **how), problem) == "<s>1+1"


def test_the_system_message_stands_in_front_of_examples(problem):
    plain, told = (spoken_to(shots=2, system=system) for system in ("", "add"))
    assert prompt(told, problem) == "add\n\n" + prompt(plain, problem)


@pytest.mark.parametrize(
    "chat, how, says",
    [
        (DEAF, dict(system="be brief"), "leaves out the system message"),
        (CHAT, dict(template="q: {question}", system="be brief"), "leaves out the system message"),
        (CHAT, dict(template="{{ messages | length }}"), "leaves out the question"),
        (CHAT, dict(template="{% nonsense"), "cannot put a problem: "),
        ("{{ raise_exception('no system here') }}", dict(system="x"), "cannot put a problem: no system here"),
        (CHAT, dict(template="Answer this"), "must have {question} in it"),
        (CHAT, dict(template_args={"enable_thinkin": False}), "knows no 'enable_thinkin'"),
        (None, dict(template_args={"enable_thinking": False}), "have no chat template to go to"),
        (CHAT, dict(template="{question}", shots=1), "leave out one of the two"),
    ],
)
def test_what_would_not_be_said_is_refused(chat, how, says):
    with pytest.raises(pl.PoiseLabError, match=says):
        spoken_to(chat, **how)


@pytest.fixture
def saved(tmp_path):
    """A folder with a policy whose tokenizer has a chat template, with room for a prompt."""
    policy = spoken_to(CHAT)
    policy.save(tmp_path / "policy")
    return tmp_path / "policy"


def test_a_run_and_an_export_remember(saved, tmp_path, problem, capsys):
    template = tmp_path / "mine.jinja"
    template.write_text(CHAT.replace("<user>", "[user]"))
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    out = tmp_path / "run"
    command = ["train", "--policy", str(saved), "--task", str(tmp_path / "questions.jsonl"), "--out", str(out),
               "--system", "add", "--template", str(template), "--template-set", "enable_thinking=False",
               "--steps", "1", "--prompts", "2", "--minibatches", "1", "--eval-prompts", "2", "--eval-responses", "1",
               "--max-new-tokens", "4", "--layer", "1"]  # fmt: skip
    assert main(command) == 0
    config = pl.read_run(out).config
    assert config["system"] == "add" and config["template_args"] == {"enable_thinking": False}
    assert config["template"] == template.read_text()
    text = prompt(pl.load_policy(out), problem)
    assert text == "<system>add\n<user>1+1\n<assistant><think></think>"
    assert main(["export", str(out), str(tmp_path / "exported")]) == 0
    exported = pl.load_policy(tmp_path / "exported")
    assert prompt(exported, problem) == text
    assert exported.tokenizer.chat_template == template.read_text()  # transformers and vLLM find it as well
    assert prompt(pl.load_policy(out, system="", template_args={}), problem) == "<user>1+1\n<assistant>"
    capsys.readouterr()
    assert main([*command, "--system", "subtract", "--resume"]) == 2
    assert "system is 'add' there and 'subtract' here" in capsys.readouterr().err


def test_sample_shows_the_prompt_that_the_policy_gets(saved, capsys):
    flags = ["--prompt", "1+1", "--system", "add", "--template-set", "enable_thinking=False", "--max-new-tokens", "4"]
    assert main(["sample", str(saved), *flags]) == 0
    said = capsys.readouterr().out
    assert said.startswith("prompt    '<system>add\\n<user>1+1\\n<assistant><think></think>'\nresponse")
    assert main(["sample", str(saved), "--template", "none.jinja"]) == 2
    assert capsys.readouterr().err == "poise-lab: there is no template none.jinja\n"
