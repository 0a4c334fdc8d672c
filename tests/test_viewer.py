"""The rollout viewer: what it shows is what was sampled, read and subtracted, and no text of a policy is more than text."""

from __future__ import annotations

import copy
import dataclasses
import re
from html.parser import HTMLParser

import pytest
import torch
from test_vocabularies import VOCABULARIES, vocabulary

import poise_lab as pl
from poise_lab.show import tokens, viewer
from poise_lab.show.samples import recorded_pairs
from poise_lab.show.tokens import (
    AGREE,
    DIFFER,
    MISS,
    ShownPrompt,
    ShownResponse,
    pieces_of,
    prefix_features,
    read_tokens,
)
from poise_lab.show.viewer import ALPHAS, BLUE, MEASURES, MOST_TOKENS, ORANGE, RolloutViewer

HOSTILE = [
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</details></form><h1>", "&amp;<!--", "'\"`",
    "]]>", "{{7*7}}", "\u202eright to left\u202c", "\u2066\u200b\u200f\ufeff", "\x00\x1b[31m\r\x7f\x9b", "\ud800",
    "line\nline", "\u2028", "العربية", "日本語", "👩‍👩‍👧", "e\u0301" * 3, "",
]  # fmt: skip


class Page(HTMLParser):
    """The texts of a page, its tokens as (text, title, classes), and every tag with its attributes."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.texts, self.tokens, self.open = [], [], [], []
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("input", "br", "img"):
            self.open.append((tag, dict(attrs)))
        if tag == "span" and "entropy" in dict(attrs).get("title", ""):
            self.tokens.append(["", dict(attrs)["title"], dict(attrs).get("class", "").split()])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open[-1][0] != "style":
            self.texts.append(data)
        if self.open[-1][0] == "span" and "entropy" in self.open[-1][1].get("title", ""):
            self.tokens[-1][0] += data


@pytest.fixture(scope="module")
def batch(bundled):
    rollouts = pl.sample_rollouts(bundled, pl.load_task(pl.TINY_TASKS).sample(40, seed=3), responses=2, seed=3)
    return rollouts, pl.read_internals(bundled, rollouts)


@pytest.fixture(scope="module")
def poise(batch):
    baseline = pl.make_baseline("poise", warmup=1)
    baseline.update(*batch)
    return baseline


@pytest.fixture(scope="module")
def shown(bundled, batch, poise):
    return read_tokens(bundled, *batch, poise)


def made(*pieces: str, **more) -> ShownResponse:
    """A response of made-up tokens."""
    n = len(pieces)
    measures = {"entropy": [0.5] * n, "log p": [-0.4] * n, "value": [0.3] * n, "pull": [-0.1] * n}
    return ShownResponse(list(pieces), measures, **{**dict(reward=1.0, reasoning=n, pool=2), **more})


def test_what_is_shown_is_what_was_sampled_read_and_subtracted(bundled, batch, poise, shown):
    rollouts, internals = batch
    values, advantages = poise.values(*batch), poise.advantages(*batch)
    page = Page(RolloutViewer(sampled=shown).to_html())
    text, at = "\n".join(page.texts), 0
    for prompt in shown:
        assert prompt.source == "value" and prompt.responses[0].pool == internals.pool
        for j, one in enumerate(prompt.responses):
            p, n = prompt.index, int(rollouts.lengths[prompt.index, j])
            assert one.reward == rollouts.rewards[p, j] and one.value == values[p, j]
            assert one.advantage == advantages[p, j] and one.baseline == pytest.approx(
                values[p, 1 - j].item(), abs=1e-6
            )
            ids = rollouts.response_ids[p, j, :n]
            assert one.pieces == [bundled.tokenizer.decode([i]) for i in ids.tolist()]
            probability = rollouts.logprobs[p, j, :n].exp()
            expected = {
                "entropy": internals.token_entropy[p, j, :n], "log p": internals.logprobs[p, j, :n],
                "pull": advantages[p, j] * (1 - probability),
            }  # fmt: skip
            for name, numbers in expected.items():
                torch.testing.assert_close(torch.tensor(one.measures[name]), numbers, atol=1e-4, rtol=0)
            assert one.measures["value"][-1] == pytest.approx(values[p, j].item(), abs=1e-4)
            for t in range(n):
                piece, title, _ = page.tokens[at + t]
                assert piece == one.pieces[t]
                said = dict(part.rsplit(" ", 1) for part in title.split(", "))
                assert {name: float(x) for name, x in said.items()} == {
                    name: float(f"{numbers[t]:.3g}") for name, numbers in one.measures.items()
                }
            at += n
            line = f"value read from it {one.value:.2f}"
            crossing = f"{line} → baseline of response 2" if j == 0 else f"baseline of response 1 ← {line}"
            assert crossing in text
            assert f"advantage {one.reward:.3g} − {one.baseline:.2f} = {one.advantage:+.2f}".replace("-", "−") in text
    assert at == len(page.tokens)


def test_a_baseline_of_each_token_has_a_shade_of_its_own(bundled, batch):
    """What is shown at a token is what was subtracted there: the reward less the token's advantage."""
    prefix = pl.make_baseline("prefix")
    prefix.start(bundled)
    prefix.update(*batch)
    one = read_tokens(bundled, *batch, prefix, prompts=[5])[0].responses[1]
    n = len(one.pieces)
    values, _ = prefix._read(*batch)
    assert len(set(one.measures["baseline"])) > 3  # it moves with what has been written
    torch.testing.assert_close(torch.tensor(one.measures["baseline"]), values[5, 1, :n].float(), atol=1e-4, rtol=0)
    page = RolloutViewer(sampled=[ShownPrompt(0, "", ["p"], [one])]).to_html()
    assert "subtracted there" in page and "what is subtracted from the reward at this token" in page
    ppo = pl.make_baseline("ppo")  # its advantages are sums of differences of values
    ppo.start(bundled)
    assert "baseline" not in read_tokens(bundled, *batch, ppo, prompts=[5])[0].responses[1].measures


def test_levels_follow_the_numbers(shown):
    page = Page(RolloutViewer(sampled=shown).to_html())
    numbers = [dict(zip(one.measures, at, strict=True)) for prompt in shown for one in prompt.responses
               for at in zip(*one.measures.values(), strict=True)]  # fmt: skip
    seen = set()
    for said, (_, _, classes) in zip(numbers, page.tokens, strict=True):
        for measure in MEASURES[:3]:
            number = abs(said[measure.name])
            level = sum(number >= abs(bound) for bound in measure.bounds(0))
            seen.add((measure.key, level))
            assert [c for c in classes if c[0] == measure.key] == ([f"{measure.key}{level}"] if level else [])
        if said["pull"] > 0:
            assert not any(c.endswith("n") for c in classes)
    assert {("e", 0), ("e", 2), ("l", 0), ("l", 2), ("v", 0), ("v", 4)} <= seen


@pytest.mark.parametrize("ended", [True, False])
def test_value_at_a_token_is_that_of_a_response_which_stopped_there(bundled, batch, ended):
    """Also of one that no tag ends, whose reasoning reaches to its last token."""
    rollouts, internals = batch
    if not ended:
        rollouts = dataclasses.replace(rollouts, reasoning_lengths=rollouts.lengths)
    i, j = divmod(int(rollouts.reasoning_lengths.argmax()), 2)
    n = int(rollouts.lengths[i, j])
    one = rollouts.select([i], [j] * n)
    kept = torch.arange(1, n + 1)[None]
    cut = dataclasses.replace(one, lengths=kept, reasoning_lengths=torch.minimum(kept, one.reasoning_lengths))
    expected = pl.read_internals(bundled, cut).features()[0]
    torch.testing.assert_close(
        prefix_features(bundled, rollouts, internals, i, j).float(), expected, atol=1e-4, rtol=1e-4
    )


def test_order_of_the_prompts(bundled, batch, poise, shown):
    rollouts, _ = batch
    assert [one.kind for one in shown] == [tokens.AGREE, tokens.DIFFER, tokens.MISS, "", "", ""]
    agree, differ, miss = (rollouts.rewards[one.index] for one in shown[:3])
    assert agree[0] == agree[1] and differ[0] != differ[1] and miss.min() == 0
    mean = rollouts.logprobs.sum(-1) / rollouts.lengths
    wrong = (rollouts.rewards < 0.5) & torch.tensor([i not in (shown[0].index, shown[1].index) for i in range(40)])[
        :, None
    ]
    assert mean[shown[2].index][miss < 0.5].max() == mean[wrong].max()
    assert len({one.index for one in shown}) == 6
    headings = [text for text in Page(RolloutViewer(sampled=shown).to_html()).texts if text[:3] == "1. "]
    assert headings and tokens.AGREE in headings[0]
    asked = [7, shown[1].index, shown[0].index]  # the last two are those that it would pick itself
    chosen = read_tokens(bundled, *batch, poise, prompts=asked)
    assert [(one.index, one.kind) for one in chosen] == [(index, "") for index in asked]  # who chose them knows why
    with pytest.raises(pl.PoiseLabError, match="prompt 40 asked for"):
        read_tokens(bundled, *batch, poise, prompts=[40])


@pytest.mark.parametrize(
    "name, source", [("rloo", "reward"), ("batch_mean", None), ("grpo", None), ("poise", "reward")]
)
def test_an_arrow_stands_only_where_the_partner_gave_the_baseline(bundled, batch, name, source):
    (one, *_) = read_tokens(bundled, *batch, pl.make_baseline(name), prompts=[0])  # POISE before its first fit is RLOO
    assert one.source == source
    words = RolloutViewer(sampled=[one]).words()
    assert ("→ baseline of response 2" in words) == (source is not None)
    assert (one.responses[0].baseline is None) == (name == "grpo")
    assert "value" not in one.responses[0].measures and "value read" not in words


def test_without_a_baseline_it_shows_what_was_sampled(bundled, batch):
    shown = read_tokens(bundled, *batch)
    assert [one.kind for one in shown[:3]] == [tokens.AGREE, tokens.DIFFER, tokens.MISS]
    html = RolloutViewer(sampled=shown).to_html()
    assert set(shown[0].responses[0].measures) == {"entropy", "log p"} and html.count('type="radio"') == 2
    assert "advantage" not in html and "baseline" not in html and "reward 1" in html


def test_advantages_per_token(bundled, batch):
    class Rising(pl.Baseline):
        name = "rising"

        def advantages(self, rollouts, internals):
            return rollouts.mask * torch.arange(rollouts.mask.shape[2]).float()

    (one, *_) = read_tokens(bundled, *batch, Rising(), prompts=[0])
    n = len(one.responses[0].pieces)
    assert one.responses[0].advantage == pytest.approx((n - 1) / 2) and one.responses[0].baseline is None
    probability = batch[0].logprobs[0, 0, :n].exp()
    expected = torch.arange(n) * (1 - probability)
    torch.testing.assert_close(torch.tensor(one.responses[0].measures["pull"]), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("reasoning", ["longest", "shortest"])
def test_the_end_and_the_pooled_tokens_are_marked(bundled, batch, poise, reasoning):
    """Also where there is less reasoning than the probe averages: then all of it."""
    lengths = batch[0].reasoning_lengths
    i, j = divmod(int(lengths.argmax() if reasoning == "longest" else lengths.argmin()), 2)
    one = read_tokens(bundled, *batch, poise, prompts=[i])[0].responses[j]
    assert one.ended and len(one.pieces) > one.reasoning and (one.reasoning > one.pool) == (reasoning == "longest")
    at = max(0, one.reasoning - one.pool)
    html = viewer._tokens(one, {}, MOST_TOKENS)
    before, rest = html.split('<span style="border:2px solid" title="the probe averages these">')
    framed, after = rest.split("┃</strong></span>")
    assert "".join(Page(before).texts) == "".join(one.pieces[:at])
    assert "".join(Page(f"{framed}</strong>").texts) == "".join(one.pieces[at : one.reasoning])
    assert "".join(Page(after).texts) == "".join(one.pieces[one.reasoning :])


def test_a_notebook_that_is_not_trusted_keeps_the_shades_of_the_first_measure():
    one = made("a", "b", ended=True, reasoning=1)
    for name, numbers, colors in (("pull", [0.1, -0.1], (BLUE, ORANGE)), ("value", [0.9, 0.9], (BLUE, BLUE))):
        one.measures = {name: numbers}
        html = RolloutViewer(one=[ShownPrompt(0, "", ["x"], [one], None, 1)]).to_html()
        inline = re.findall(r'<span class="[gv]4n?" title="[^"]*" style="background:(#\w{6})a6[;\w :-]*">', html)
        assert inline == list(colors), name
        assert html.count('a6;text-decoration:underline dotted">') == colors.count(ORANGE)
        assert "radio" not in html and 'class="legend' in html and ".legend" not in html


def test_hostile_texts_stay_text():
    response = made(*HOSTILE, ended=True, reasoning=3)
    prompt = ShownPrompt(0, "", HOSTILE, [response, response], None, 4)
    html = RolloutViewer(**{"<b>before": [prompt], "after": [copy.deepcopy(prompt)]}).to_html()
    html.encode("utf-8")
    page, allowed = (
        Page(html),
        set("style form fieldset legend label input p span strong em details summary div".split()),
    )
    assert {tag for tag, _ in page.tags} == allowed - {"em"}
    assert not any(name.startswith("on") or name in ("src", "href") for _, attrs in page.tags for name in attrs)
    text = "".join(page.texts)
    for shown_as in ("</script><script>alert(1)</script>", "⟨U+202E⟩right to left⟨U+202C⟩", "⟨U+0000⟩", "⟨U+D800⟩",
                     "line↵\nline", "العربية", "👩‍👩‍👧", "◌"):  # fmt: skip
        assert shown_as in text
    assert not viewer.HIDDEN.search(text)
    assert any(attrs.get("dir") == "auto" for _, attrs in page.tags)


def test_long_responses_stay_small():
    long = made(*["wonderful "] * 6000, reasoning=4000, ended=True, pool=4)
    html = RolloutViewer(before=[ShownPrompt(i, "", ["x"] * 5000, [long] * 2, None, 4) for i in range(3)]).to_html()
    assert len(html.encode()) < 400_000
    page = Page(html)
    assert MOST_TOKENS - 12 * 3 <= len(page.tokens) <= MOST_TOKENS
    third = MOST_TOKENS // 6 // 3
    assert f"… {4000 - 2 * third:,} tokens not shown …" in page.texts  # up to what the probe reads
    assert page.texts.count("┃") == 1 + 6 and "… 4,700 tokens not shown …" in page.texts
    short = Page(RolloutViewer(before=[ShownPrompt(0, "", ["x"], [long, made("a", "b")])]).to_html())
    assert len(short.tokens) >= MOST_TOKENS - 4  # what the short one leaves, the long one has


def test_the_same_readings_give_the_same_bytes_and_run_nothing(shown):
    html = RolloutViewer(sampled=shown).to_html()
    assert html == RolloutViewer(sampled=copy.deepcopy(shown)).to_html()
    assert "<script" not in html and "http" not in html and "javascript" not in html
    bundle = RolloutViewer(sampled=shown)._repr_mimebundle_()
    assert bundle["text/html"] == html and "response 1 has" in bundle["text/plain"]


def test_before_and_after_of_the_same_prompts(shown):
    later = copy.deepcopy(shown)
    for one in later:
        one.responses[0].reward = 0.25
    view = RolloutViewer(before_training=shown, after_training=later)
    texts = Page(view.to_html()).texts
    assert texts.count("before training") == texts.count("after training") == len(shown)
    assert any(", then 0.25 and " in text for text in texts)
    with pytest.raises(pl.PoiseLabError, match="the same ones"):
        RolloutViewer(before=shown, after=later[1:])
    with pytest.raises(pl.PoiseLabError, match="show one prompt or more"):
        RolloutViewer(before=[])


def test_the_recorded_pairs_of_a_real_model_show_what_training_changed():
    view = recorded_pairs(pl.data_dir() / "pairs" / "poise-0" / "pairs.json")
    before, after = view.readings.values()
    assert list(view.readings) == ["before training", "after 10 steps"] and len(before) == 5
    rewards = [[one.reward for shown in reading for one in shown.responses] for reading in (before, after)]
    assert sum(rewards[1]) > sum(rewards[0]) and {shown.kind for shown in before} >= {AGREE, DIFFER, MISS}
    for one in view.responses():
        assert set(one.measures) == {"entropy", "log p", "value", "pull"} and one.pieces and not one.ended
        assert all(len(values) == len(one.pieces) for values in one.measures.values())
    page = view.to_html()
    assert page == view.to_html() and len(page) < 300_000 and page.count('class="cards"') == 10
    assert "baseline of response 2" in page and page.count("<strong>after 10 steps</strong>") == 5


def test_responses_without_numbers_are_text():
    """What a run folder keeps of its samples: texts and rewards."""
    plain = ShownResponse(["an answer"], {}, reward=1.0)
    viewer = RolloutViewer(step_10=[ShownPrompt(0, "", ["1+1="], [plain])])
    html = viewer.to_html()
    assert "an answer" in html and "radio" not in html and "reward 1" in html
    assert "response 1 has 9 characters;" in viewer.words()  # its pieces are no tokens


@pytest.mark.parametrize("name", VOCABULARIES)
@pytest.mark.parametrize("text", ["a b  c\n\nd", "日本語 العربية 👩‍👩‍👧 é x", "xx🎉🎉", "</think> &amp;", ""])
def test_pieces_are_the_text(name, text):
    tokenizer = vocabulary(name)
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = pieces_of(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def test_bytes_that_are_no_character_end():
    tokenizer = vocabulary("legacy")
    pieces = pieces_of(tokenizer, tokenizer.convert_tokens_to_ids(["<0xE6>"] * 30 + ["<0x41>"]))
    assert len(pieces) == 31 and all("".join(pieces[i : i + 4]) for i in range(28))


def _over(color: str, alpha: str, page: float) -> tuple[float, float, float]:
    """A transparent colour over a grey page, as sRGB in [0, 1]."""
    share = int(alpha, 16) / 255 if alpha else 0.0
    return tuple(share * int(color[i : i + 2], 16) / 255 + (1 - share) * page for i in (1, 3, 5))


def _light(rgb) -> float:
    """Relative luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("color", [BLUE, ORANGE])
@pytest.mark.parametrize("page, text", [(1.0, 0.13), (0.067, 0.87)])  # JupyterLab's light and dark theme
def test_levels_are_told_apart_in_grey_and_read(color, page, text):
    lights = [_light(_over(color, alpha, page)) for alpha in ALPHAS]
    letters = _light((text,) * 3)
    for light in lights:
        assert (max(light, letters) + 0.05) / (min(light, letters) + 0.05) >= 4.5
    steps = [116 * light ** (1 / 3) if light > 0.008856 else 903.3 * light for light in lights]  # L* + 16
    assert all(abs(b - a) >= 4 for a, b in zip(steps, steps[1:], strict=False))
    assert (steps == sorted(steps)) or (steps == sorted(steps, reverse=True))
