"""Where reasoning and turns end under the vocabularies that models have, built here: the tag merges with its neighbours."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import pytest
import torch
from support import tiny_policy
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

import poise_lab as pl
from poise_lab.models.pretrain import character_tokenizer
from poise_lab.rollouts import build_rollouts, reasoning_ends
from poise_lab.templates import reasoning_tags

ENDS = ["<|endoftext|>", "<|im_end|>"]
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {"qwen": QWEN, "llama3": QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|"), "gpt2": None}

# How responses are usually laid out, reasoning and answer; all but the last two end with the answer 12.
LAYOUTS = [
    "<think>\nso 7 + 5.\n</think>\n\n12",
    "<think>7+5=12</think>12",
    "so it is 12.</think>12",
    "so it is 12 </think> 12",
    "<think>first, then</think>\n12",
    "<think></think>12",
    "<think>\n\n</think>\n\n12",
    "one</think>two (done).</think>\n\n12",
    "日本語 é🙂。</think>12",
    "<think>sum</think><answer>12</answer>",
    "no tag at all, but 12",
]


def taught(tokenizer: Tokenizer, **options) -> Tokenizer:
    """A vocabulary in which everything that is often side by side has been merged."""
    corpus = [t.replace("12", n) for t in LAYOUTS for n in ("12", "7", "(3)", "**5**")] * 30
    kind = {models.BPE: trainers.BpeTrainer, models.Unigram: trainers.UnigramTrainer}
    trainer = kind.get(type(tokenizer.model), trainers.WordPieceTrainer)
    tokenizer.train_from_iterator(corpus, trainer(vocab_size=420, show_progress=False, **options))
    return tokenizer


def byte_level(pattern: str | None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        ([pre_tokenizers.Split(Regex(pattern), behavior="isolated")] if pattern else [])
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return taught(tokenizer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def metaspace(prepend: str) -> Tokenizer:
    """SentencePiece as converted today, with a unigram vocabulary."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=prepend)
    return taught(tokenizer, unk_token="<unk>", special_tokens=["<unk>"])


def legacy() -> Tokenizer:
    """SentencePiece as in Llama 2: spaces in the normalizer, bytes for what is not in the vocabulary."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    return taught(tokenizer, special_tokens=tokens, limit_alphabet=60, max_token_length=8)


VOCABULARIES = {
    **{name: lambda pattern=pattern: byte_level(pattern) for name, pattern in PATTERNS.items()},
    "metaspace-always": lambda: metaspace("always"),
    "metaspace-first": lambda: metaspace("first"),
    "metaspace-never": lambda: metaspace("never"),
    "legacy": legacy,
    "characters": lambda: character_tokenizer()._tokenizer,
}
TAGS = {"plain": None, "token": False, "special": True}  # whether the tags are tokens of their own, and special ones


@cache
def vocabulary(name: str, tags: str = "plain", pair=("<think>", "</think>")) -> PreTrainedTokenizerFast:
    tokenizer = VOCABULARIES[name]()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=ENDS[1], pad_token="<pad>")
    fast.add_special_tokens({"additional_special_tokens": ENDS})
    if TAGS[tags] is not None:
        fast.add_tokens([AddedToken(tag, special=TAGS[tags], normalized=False) for tag in pair])
    return fast


def policy_of(tokenizer, **settings) -> pl.Policy:
    """Only what is read of a model where no token is sampled."""
    first = tokenizer.convert_tokens_to_ids(ENDS[0])
    config = PreTrainedConfig(vocab_size=len(tokenizer))
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=first), config=config)
    return pl.Policy(model, tokenizer, "p", **settings)


class Sum:
    """Right if the answer is 12."""

    compact = question = "7 + 5 ="
    task = "sum"

    def reward(self, response: str) -> float:
        return PROBLEM.reward(response)


PROBLEM = pl.load_task("chain_sum").sample(1, seed=0)[0]
PROBLEM.entry["answer"] = "12"


def built(policy, rows, prompt=(1,)) -> pl.Rollouts:
    lengths = torch.tensor([[len(row) for row in rows]])
    tokens = torch.zeros(1, len(rows), int(lengths.max()), dtype=torch.long)
    for j, row in enumerate(rows):
        tokens[0, j, : len(row)] = torch.tensor(row)
    return build_rollouts(policy, [Sum()], [list(prompt)], tokens, lengths, torch.zeros(tokens.shape))


def expected_end(tokenizer, text: str, tag: str = "</think>") -> int:
    """From the offsets that the tokenizer itself gives: the last token that has a part of the tag's last character."""
    if tag not in text:
        return -1
    last = text.rindex(tag) + len(tag) - 1
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return max(i for i, (start, end) in enumerate(offsets) if start <= last < end) + 1


# --- the end of reasoning ------------------------------------------------------------------------


def test_the_zoo_merges_the_tag_with_its_neighbours():
    """Otherwise the tests below show nothing: the tokens of the bare tag stand in few of the layouts."""
    for name in ("qwen", "llama3", "gpt2", "metaspace-always", "legacy"):
        encode = vocabulary(name).encode
        tag = encode("</think>", add_special_tokens=False)
        rows = [encode(text, add_special_tokens=False) for text in LAYOUTS[:-1]]
        missed = [all(row[i : i + len(tag)] != tag for i in range(len(row))) for row in rows]
        assert sum(missed) >= 5, name
    offsets = vocabulary("qwen")(LAYOUTS[0], return_offsets_mapping=True)["offset_mapping"]
    assert any(LAYOUTS[0][a:b] == ">\n\n" for a, b in offsets)


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("name", VOCABULARIES)
def test_span_and_answer(name, tags):
    tokenizer = vocabulary(name, tags)
    policy, end = policy_of(tokenizer), tokenizer.convert_tokens_to_ids(ENDS[1])
    layouts = [text for text in LAYOUTS if name != "characters" or text.isascii()]
    rows = [tokenizer.encode(text, add_special_tokens=False) + [end] for text in layouts]
    rollouts = built(policy, rows)
    ends = [expected_end(tokenizer, text) for text in layouts]
    assert rollouts.reasoning_ended[0].tolist() == [n > 0 for n in ends]
    wanted = [n if n > 0 else len(row) for n, row in zip(ends, rows, strict=True)]
    assert rollouts.reasoning_lengths[0].tolist() == wanted
    if name in (*PATTERNS, "characters"):
        assert rollouts.texts[0] == layouts
    else:  # SentencePiece puts a space behind a tag that is a token
        assert ["".join(text.split()) for text in rollouts.texts[0]] == ["".join(text.split()) for text in layouts]
    assert rollouts.rewards[0].tolist() == [1.0] * (len(layouts) - 2) + [0.0, 0.0]
    assert rollouts.finished.all()


@pytest.mark.parametrize("tags", ["plain", "special"])
@pytest.mark.parametrize("name", ["qwen", "legacy", "characters"])
def test_tokens_that_no_tokenizer_would_choose(name, tags):
    """A policy draws tokens one by one: here every character is one, among them tags that are not the token of the tag."""
    tokenizer = vocabulary(name, tags)
    policy, one = policy_of(tokenizer), tokenizer.convert_tokens_to_ids
    text = "<think>a</think>b</think>.\n\n12" if name != "legacy" else "<think>a</think>b</think>.12"
    row = [one("Ċ" if c == "\n" and name == "qwen" else c) for c in text]
    assert None not in row and policy.decode([row]) == [text]
    assert reasoning_ends(policy, [row]) == [text.rindex(">") + 1]
    mixed = [*tokenizer.encode("</think>", add_special_tokens=False), *row]  # one token of the tag, then its pieces
    assert reasoning_ends(policy, [mixed]) == [len(mixed) - len(text) + text.rindex(">") + 1]


def test_long_answers_and_characters_of_several_tokens():
    tokenizer = vocabulary("qwen")
    policy = policy_of(tokenizer)
    for answer in ("🙂" * 200, "x" * 500, "<" * 100, "\n\n", "é"):
        for reasoning in ("🙂🙂", "", "</thin", "日" * 90):
            text = f"{reasoning}</think>{answer}"
            row = tokenizer.encode(text, add_special_tokens=False)
            assert reasoning_ends(policy, [row]) == [expected_end(tokenizer, text)]
            assert reasoning_ends(policy, [row[:-1]])[0] in (expected_end(tokenizer, text), -1)


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("name", ["qwen", "metaspace-first", "characters"])
def test_a_response_cut_off_in_its_thinking_has_no_answer(name, tags):
    tokenizer = vocabulary(name, tags)
    policy = policy_of(tokenizer)
    texts = ["<think>12", "<think>\n12", "a</think>b<think>12", "12", "<think>a</think>12"]
    rows = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    rollouts = built(policy, rows)
    assert rollouts.rewards.tolist() == [[0, 0, 0, 1, 1]]
    assert rollouts.reasoning_ended.tolist() == [[False, False, False, False, True]]
    assert rollouts.reasoning_lengths[0, :4].tolist() == [len(row) for row in rows[:4]]
    for opened in ("q<think>", "q<think>\n", "<think>\n\n</think>\n\nq <think>\n\n"):
        prompt = tokenizer.encode(opened, add_special_tokens=False)
        assert built(policy, rows, prompt).rewards.tolist() == [[0, 0, 0, 0, 1]], opened
    for closed in ("q<think></think>", "q<think>\n\n</think>\n\n", "write <think> first", "q"):
        prompt = tokenizer.encode(closed, add_special_tokens=False)
        assert built(policy, rows, prompt).rewards.tolist() == [[0, 0, 0, 1, 1]], closed


def test_a_template_that_opens_the_reasoning():
    tokenizer = vocabulary("qwen", "token")
    policy = policy_of(tokenizer)
    rows = [tokenizer.encode(text, add_special_tokens=False) for text in ("12", "so</think>12")]
    template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    found = {}
    for more in ("", "<think>\n", "<think>\n\n</think>\n\n"):
        tokenizer.chat_template = template + more
        found[more] = built(policy, rows, policy.prompt_ids(Sum())).rewards[0].tolist()
    tokenizer.chat_template = None
    assert list(found.values()) == [[1, 1], [0, 1], [1, 1]]


# --- other tags ----------------------------------------------------------------------------------

OTHERS = [
    ("[THINK]", "[/THINK]"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
]


@pytest.mark.parametrize("pair", OTHERS)
def test_tags_are_read_from_the_chat_template(pair):
    tokenizer = vocabulary("llama3")
    tokenizer.chat_template = "{% if x %}{{ x.split('" + pair[1] + "')[-1] }}{% endif %}{{ messages[0].content }}"
    found, policy = reasoning_tags(tokenizer), policy_of(tokenizer)
    tokenizer.chat_template = None
    assert found == pair == policy.tags
    assert reasoning_tags(tokenizer) == ("<think>", "</think>")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        *((name, source) for name in ("qwen", "legacy") for source in ("setting", "vocabulary", "special")),
        *(("metaspace-always", source) for source in ("vocabulary", "special")),  # others are unknown tokens to it
    ],
)
@pytest.mark.parametrize("pair", OTHERS[:4])
def test_other_tags(pair, name, source):
    tags = {"setting": "plain", "vocabulary": "token", "special": "special"}[source]
    tokenizer = vocabulary(name, tags, pair)
    policy = policy_of(tokenizer, **({"tags": pair} if source == "setting" else {}))
    assert policy.tags == pair
    start, end = pair
    texts = [f"{start}so{end}\n12", f"so.{end}12", f"{start}so{end}7", f"{start}12", f"so {end} no {end} 12"]
    rows = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    rollouts = built(policy, rows)
    assert rollouts.rewards.tolist() == [[1, 1, 0, 0, 1]]
    assert rollouts.reasoning_lengths[0].tolist() == [
        n if n > 0 else len(row)
        for n, row in ((expected_end(tokenizer, text, end), row) for text, row in zip(texts, rows, strict=True))
    ]
    assert built(policy, rows, tokenizer.encode(f"q{start}\n", add_special_tokens=False)).rewards[0, 3] == 0


def test_a_tokenizer_that_puts_spaces_between_its_pieces():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=taught(tokenizer, special_tokens=["[UNK]", ENDS[0]]), eos_token=ENDS[0]
    )
    policy = policy_of(fast)
    row = fast.encode("so.</think>12", add_special_tokens=False)
    assert "</think>" not in policy.decode([row])[0] and policy.tags[1] == "< / think >"
    assert reasoning_ends(policy, [row]) == [expected_end(fast, "so.</think>12")]
    assert built(policy, [row]).rewards.tolist() == [[1.0]]


def test_tags_are_saved_and_read(tmp_path):
    policy = tiny_policy()
    pl.Policy(policy.model, policy.tokenizer, "p", "compact", tags=("", "##")).save(tmp_path)
    assert pl.load_policy(tmp_path).tags == ("", "##")
    assert pl.load_policy(tmp_path, tags=("#", "/#")).tags == ("#", "/#")
    assert "tags" not in (policy.save(tmp_path) or (tmp_path / "poise_lab.json").read_text())
    for wrong in (("a", ""), ("a",), "ab", ("a", None), ("a", " ")):
        with pytest.raises(pl.PoiseLabError, match="what starts and what ends the reasoning"):
            pl.load_policy(tmp_path, tags=wrong)


# --- the end of a turn ---------------------------------------------------------------------------


def test_a_turn_ends_at_either_token():
    """The tokenizer's <|im_end|> and the generation config's <|endoftext|>."""
    tokenizer = vocabulary("qwen")
    policy, ids = policy_of(tokenizer), tokenizer.convert_tokens_to_ids(ENDS)
    assert policy.eos_token_ids == sorted(ids)
    rows = [[*tokenizer.encode("so</think>12"), *more] for more in (ids[:1], ids[1:], [])]
    rollouts = built(policy, rows)
    assert rollouts.finished.tolist() == [[True, True, False]] and rollouts.rewards.tolist() == [[1, 1, 1]]
    assert rollouts.texts == [["so</think>12"] * 3]


@pytest.mark.parametrize("special", [True, False])
def test_sampling_stops_at_either_token(special):
    tokenizer = character_tokenizer()
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=special)])
    model = tiny_policy(ends=[1]).model
    model.resize_token_embeddings(len(tokenizer))
    tokenizer.eos_token = "<|im_end|>"
    policy = pl.Policy(model, tokenizer, "p", "compact")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert policy.eos_token_ids == sorted([1, end])
    problems = pl.load_task("chain_sum").sample(20, seed=0)
    rollouts = pl.sample_rollouts(policy, problems, 20, seed=0, max_new_tokens=100)
    rows = [rollouts.response_ids[i, j, : rollouts.lengths[i, j]].tolist() for i in range(20) for j in range(20)]
    for token in (1, end):
        stopped = [row for row in rows if token in row]
        assert stopped and all(row.index(token) == len(row) - 1 for row in stopped)
    assert not any("im_end" in text for group in rollouts.texts for text in group)


def framed(start: str, end: str, **options) -> PreTrainedTokenizerFast:
    """A tokenizer that puts a token in front of a text and one behind it, as BERT's does."""
    tokenizer = byte_level(None)
    tokenizer.add_special_tokens([start, end])
    ids = [(token, tokenizer.token_to_id(token)) for token in (start, end)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, **options)


def spoken_to(tokenizer, tokens: int | None = None, **options) -> pl.Policy:
    """A random policy with embeddings for so many tokens, by default for all."""
    model = tiny_policy("llama", vocab_size=tokens or len(tokenizer), max_position_embeddings=512).model
    model.generation_config.eos_token_id = None
    return pl.Policy(model, tokenizer, "spoken to", **options)


SUM = pl.load_task("chain_sum").sample(1, seed=0)


@pytest.mark.parametrize("options", [{}, {"wording": "line"}, {"shots": 2}])
def test_a_prompt_does_not_end_with_what_ends_a_text(options):
    policy = spoken_to(framed("[CLS]", "[SEP]"), **options)
    prompt = policy.prompt_ids(SUM[0])
    text = policy.tokenizer.decode(prompt)
    assert text.startswith("[CLS]") and "[SEP]" not in text and len(prompt) > 10


def test_tokens_without_an_embedding_are_refused():
    tokenizer = framed("<s>", "</s>")
    with pytest.raises(pl.PoiseLabError, match="no end-of-sequence token that its model knows"):
        spoken_to(tokenizer, len(tokenizer) - 1)
    tokenizer.add_tokens(["State"])
    with pytest.raises(pl.PoiseLabError, match=r"token \d+, which the model .* no embedding for"):
        pl.sample_rollouts(spoken_to(tokenizer, len(tokenizer) - 1), SUM)


@pytest.mark.parametrize(
    "template, words",
    [
        ("{{ raise_exception('a system prompt is needed') }}", "cannot put a problem: a system prompt is needed"),
        ("{{ messages[0].content.text.strip() }}", "cannot put a problem: .*has no attribute 'text'"),
        ("{% if %}", "cannot put a problem: Expected an expression"),
        ({"rag": "x", "tool_use": "x"}, "cannot put a problem: .*no default"),
    ],
)
def test_a_chat_template_that_fails_says_so(template, words):
    with pytest.raises(pl.PoiseLabError, match=words):
        pl.sample_rollouts(spoken_to(framed("<s>", "</s>", chat_template=template)), SUM)


@pytest.mark.parametrize(
    "template, words",
    [
        ("[INST] {{ messages[0].content[0].text }} [/INST]", "has no attribute 'text'|leaves out the question"),
        ("[INST]{% for part in messages[0].content %}{{ part.text }}{% endfor %}[/INST]", "leaves out the question"),
        ("Hello!", "leaves out the question"),
        ("{{ messages[0].content[:20] }}", "leaves out the question"),
        ("{{ range(9999)|random }} {{ messages[0].content }}", "writes another prompt every time"),
    ],
)
def test_a_chat_template_that_does_not_ask_is_refused_at_load(template, words):
    with pytest.raises(pl.PoiseLabError, match=words):
        spoken_to(framed("<s>", "</s>", chat_template=template))


@pytest.mark.parametrize("change", ["|upper", "|tojson", ".strip()", "|e", ".replace(' ', '  ')"])
def test_a_chat_template_may_change_how_a_question_looks(change):
    spoken_to(framed("<s>", "</s>", chat_template=f"{{{{ messages[0].content{change} }}}}"))


@pytest.mark.parametrize(
    "template, day",
    [
        ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
        ("{% set form = '%d %B %Y, %A' %}{{ strftime_now(form) }}", "26 July 2024, Friday"),
        ("{{ strftime_now('%Y' ~ '-%m') }}{{ strftime_now( format ='%d') if none else '' }}", "2024-07"),
        ("{% macro day() %}{{ strftime_now('%-d. %m.') }}{% endmacro %}{{ day() }}", "26. 07."),
        ("{%- if strftime_now is defined %}{% set day = strftime_now('%H:%M %j %% %y') %}{% endif %}{{ day }}", "00:00 208 % 24"),
        ("\n  {% if true %}{{ strftime_now('%x') }}{% endif %}", "\n07/26/24"),
    ],
)  # fmt: skip
def test_no_chat_template_learns_what_day_it_is(template, day):
    policy = spoken_to(framed("<s>", "</s>", chat_template=template + "|{{ messages[0].content }}"))
    assert policy.tokenizer.decode(policy.prompt_ids(SUM[0])) == f"{day}|{SUM[0].question}"


def test_a_model_without_a_head_is_refused():
    with pytest.raises(pl.PoiseLabError, match="writes no text; load it by AutoModelForCausalLM"):
        pl.Policy(tiny_policy("llama").model.model, framed("<s>", "</s>"), "headless")
