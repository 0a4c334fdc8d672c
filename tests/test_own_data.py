"""Questions and answers of one's own: read, verified, trained on."""

from __future__ import annotations

import csv
import json
import warnings
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

import poise_lab as pl
from poise_lab.cli import main
from poise_lab.tasks.answers import VERIFIERS, final_answer, last_number

ROWS = [{"question": f"{a}+{b}=", "answer": str(a + b), "level": a} for a in range(1, 9) for b in range(1, 9)]


@pytest.mark.parametrize(
    "text, answer",
    [
        ("The answer is 12.", "The answer is 12."),
        (r"so \boxed{12}.", "12"),
        (r"\boxed{1} no, \boxed{\frac{1}{2}} it is", r"\frac{1}{2}"),
        (r"never closed \boxed{12", r"never closed \boxed{12"),
        ("<answer> 7 </answer> or <answer>8</answer>", "8"),
        ("", ""),
    ],
)
def test_final_answer_by_hand(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    "text, value",
    [
        ("12", ("12", "")),
        ("it is 1,234.5.", ("1234.5", "")),
        ("-3 then -.5", ("-.5", "")),
        ("2e3", ("2e3", "")),
        ("none", (None, "")),
        ("1,2", (None, "1,2")),
        ("7-3", (None, "7-3")),
        ("7, -3", (None, "7, -3")),
        ("7 - 3 apples", (None, "- 3 apples")),
        ("- 3", ("-3", "")),
    ],
)
def test_last_number_by_hand(text, value):
    assert last_number(text) == value


@pytest.mark.parametrize(
    "verifier, answer, right, wrong",
    [
        ("exact", "blue", ["blue", " blue\n", r"\boxed{blue}"], ["Blue", "blue.", "", "the blue"]),
        ("number", "12", ["The answer is 12.", r"\boxed{12.0}", "11, no 12"], ["12 or 13", "", "twelve", "112"]),
        ("number", "1,000", ["1000", "$1,000"], ["1", "1,001"]),
        ("choice", "B", ["B", "(B)", "The answer is B.", r"\boxed{B}"], ["A", "AB", "", "Because"]),
        ("regex", r"ab+|c", ["abb", "<answer>c</answer>"], ["abbc", "", "C"]),
    ],
)
def test_verifiers_by_hand(verifier, answer, right, wrong):
    (task,) = [pl.load_task([{"question": "q", "answer": answer}], verify=verifier)]
    (problem,) = task.sample(1, seed=0)
    for text in right:
        assert problem.reward(text) == 1.0 and problem.reward(f"<think>{wrong[0]}</think>{text}") == 1.0, text
    for text in wrong:
        assert problem.reward(text) == 0.0, text


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        ("3.14", ["3.140001", "3.139999"], ["3.15", "3.14001", "3.13999"]),
        ("0.001", ["0.0010000009", "0.0009999991"], ["0.0010009", "0.0009991"]),
        ("6.626e-34", ["6.6260001e-34"], ["0", "9.1e-31", "6.627e-34"]),
        ("0.0", ["0", "-0.0"], ["1e-9"]),
        ("2000000.5", ["2000002.4", "1999998.6"], ["2000003.5"]),
    ],
)
def test_numbers_are_right_to_one_part_in_a_million(answer, right, wrong):
    for text in (*right, *wrong):
        assert VERIFIERS["number"](text, answer) == float(text in right), text


def test_mathematics_by_its_library():
    pytest.importorskip("math_verify", reason="extra: math")
    verify = VERIFIERS["math"]
    assert verify(r"\boxed{\frac{1}{2}}", "0.5") == verify("The answer is $2x+2$.", "2(x+1)") == 1.0
    assert verify(r"\boxed{\frac{1}{3}}", "0.5") == verify("", "0.5") == verify("words", "0.5") == 0.0


def nested(depth: int) -> list:
    value = []
    for _ in range(depth):
        value = [value]
    return value


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8-sig")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        with path.open("w", newline="") as f:
            writer = csv.DictWriter(f, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv"])
def test_a_file_gives_the_same_problems_as_its_rows(tmp_path, ending):
    rows = [*ROWS, {"question": 'a "b",\nc', "answer": "1", "level": 0}, ROWS[0]]  # the last one comes twice
    path = write(tmp_path / f"questions{ending}", rows)
    task, same = pl.load_task(str(path), difficulty="level"), pl.load_task(rows, difficulty="level")
    assert task.name == path.name and task.settings == same.settings and task.settings["records"] == len(ROWS) + 1
    drawn = task.sample(20, seed=3)
    assert [(p.question, p.answer, p.difficulty) for p in drawn] == [
        (p.question, p.answer, p.difficulty) for p in same.sample(20, seed=3)
    ]
    assert drawn != task.sample(20, seed=4) and len({p.question for p in drawn}) == 20
    rest = task.sample(45, seed=3, exclude=drawn)
    assert {p.question for p in rest} | {p.question for p in drawn} == {p.question for p in task.problems}
    assert pl.load_task(path).sample(1, 0)[0].difficulty == {}


def test_a_parquet_file_or_what_it_needs(tmp_path):
    path = tmp_path / "questions.parquet"
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        path.write_bytes(b"PAR1")
        with pytest.raises(pl.PoiseLabError, match="needs pyarrow"):
            pl.load_task(path)
        return
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert pl.load_task(path).settings["records"] == len(ROWS)


def test_splits_columns_and_prompt():
    rows = [{"q": f"q{i}", "a": i, "split": "train" if i % 2 else "test"} for i in range(10)]
    task = pl.load_task(rows, split="train", question="q", answer="a", prompt="{question}\nA number:")
    assert [p.question for p in task.problems] == [f"q{i}\nA number:" for i in range(1, 10, 2)]
    both = pl.load_task({"train": rows[:3], "test": rows[3:]}, split="test", question="q", answer="a")
    assert len(both.problems) == 7


def test_a_function_reads_the_whole_response_and_may_pay_a_part():
    seen = []

    def reward(response, record):
        seen.append((response, record["level"]))
        return 0.25

    task = pl.load_task(ROWS, verify=reward)
    problem = task.sample(1, seed=0)[0]
    assert problem.reward("<think>x</think>y") == 0.25
    assert seen == [("<think>x</think>y", problem.entry["level"])]
    assert task.settings["verify"].endswith("reward")


def test_a_function_in_a_file_is_named_on_the_command_line(tmp_path, capfd):
    """A part of a reward is kept as it is; the run's own config names the function again."""
    rewards, rows = tmp_path / "rewards.py", write(tmp_path / "questions.jsonl", ROWS)
    rewards.write_text("half = 0.5\n\ndef score(response, record):\n    return half * (record['level'] > 3)\n")
    command = ["train", "--task", str(rows), "--task-set", f"verify={rewards}:score", "--steps", "1", "--prompts", "8",
               "--eval-prompts", "8", "--eval-responses", "1", "--max-new-tokens", "4", "--minibatches", "1"]  # fmt: skip
    assert main([*command, "--out", str(tmp_path / "a")]) == 0
    assert main(["train", "--config", str(tmp_path / "a" / "config.json"), "--out", str(tmp_path / "b")]) == 0
    a, b = (pl.read_run(tmp_path / name) for name in "ab")
    assert a.config["task_settings"] == b.config["task_settings"] and a.config["task_settings"]["verify"].endswith(
        ":score"
    )
    assert 0 < a.series("accuracy")[1][0] < 0.5 and a.series("accuracy") == b.series("accuracy")
    capfd.readouterr()
    for place, says in (
        (f"{rewards}:nosuch", "the file has no function 'nosuch'"),
        (f"{rewards}:half", "the file has no function 'half'"),
        (f"{tmp_path / 'none.py'}:score", "there is no file"),
    ):
        with pytest.raises(pl.PoiseLabError, match=says):
            pl.load_task(ROWS, verify=place)
    rewards.write_text("1 / 0")
    with pytest.raises(pl.PoiseLabError, match="stops with ZeroDivisionError"):
        pl.load_task(ROWS, verify=f"{rewards}:score")


@pytest.mark.parametrize(
    "value",
    [None, float("nan"), 1.5, -0.1, "1", 1 + 0j, 10**400, [1], np.ones(2), torch.ones(2), object(), np.float32("inf")],
)
def test_a_function_that_gives_no_reward(value):
    problem = pl.load_task(ROWS, verify=lambda response, record: value).sample(1, seed=0)[0]
    with pytest.raises(pl.PoiseLabError, match="must give a number from 0 to 1"):
        problem.reward("x")


@pytest.mark.parametrize("value", [np.float32(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2), Decimal("0.5")])
def test_a_number_of_any_kind_is_a_reward(value):
    reward = pl.load_task(ROWS, verify=lambda response, record: value).sample(1, seed=0)[0].reward("x")
    assert type(reward) is float and reward == 0.5


@pytest.mark.parametrize("verify", [lambda response: 1.0, lambda: 1.0, lambda a, b, c: 1.0, 3, object])
def test_what_cannot_be_called_with_a_response_and_a_record(verify):
    with pytest.raises(pl.PoiseLabError, match="is no function of a response and its record"):
        pl.load_task(ROWS, verify=verify)


@pytest.mark.parametrize("error", [KeyError("k"), SystemExit(3), RecursionError(), AssertionError(), StopIteration()])
def test_a_response_that_a_function_stops_at_is_wrong_and_counted(error):
    def reward(response, record):
        if "1" not in response:
            raise error
        return 1.0

    problem = pl.load_task(ROWS, verify=reward).sample(1, seed=0)[0]
    with pytest.warns(UserWarning, match=f"stopped with {type(error).__name__}.*count as wrong"):
        assert problem.reward("x") == 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert (problem.reward("y"), problem.reward("1")) == (0.0, 1.0)
    assert problem.source.verifier_errors == 2


def test_a_user_who_stops_the_run_stops_it():
    def reward(response, record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pl.load_task(ROWS, verify=reward).sample(1, seed=0)[0].reward("x")


def test_a_function_may_change_the_record_that_it_is_given():
    def reward(response, record):
        return float(record.pop("answer") == response)

    problem = pl.load_task(ROWS, verify=reward).sample(1, seed=0)[0]
    assert [problem.reward(problem.answer) for _ in range(2)] == [1.0, 1.0]


@pytest.mark.parametrize(
    "settings, says",
    [
        (dict(verify="nosuch"), "unknown verifier 'nosuch'; known: choice"),
        (
            dict(question="prompt"),
            "record 0 of task 'records': column 'prompt' is missing; the record has question, answer",
        ),
        (dict(difficulty="hardness"), "column 'hardness' of task 'records' is no number"),
        (dict(verify="choice"), "the answer '2' has no letter from A to J"),
        (dict(prompt="Solve"), "must have {question} in it"),
        (dict(split="train"), "no record is of split 'train'; there are: None"),
        (dict(min_terms=2), "refuses its settings: .*min_terms"),
    ],
)
def test_bad_settings_are_one_sentence(settings, says):
    with pytest.raises(pl.PoiseLabError, match=says):
        pl.load_task(ROWS, **settings)


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("a.jsonl", '{"question": "q", "answer": "a"}\n{broken', "a.jsonl, line 2: no JSON"),
        ("a.json", '{"question": "q"}', "must hold a list"),
        ("a.jsonl", "", "has no records"),
        ("a.jsonl", "[1, 2]", "record 0 is a list"),
        ("a.csv", "question;answer\nq;a\n", "column 'question' is missing; the record has question;answer"),
        ("a.jsonl", '{"question": "q", "answer": null}', "column 'answer' is empty"),
        ("a.csv", "question,answer,answer\nq,3,4\n", "a.csv, its header: 'answer' stands there twice; give one"),
        ("a.jsonl", '{"question": "q", "answer": 3, "answer": 4}\n', "line 1: 'answer' stands there twice; give one"),
        ("a.csv", "question,answer\nq,3\nHalf of seven?,3,5\n", "a.csv: record 1 has more cells than the header; put"),
        (
            "a.jsonl",
            f'{{"question": "q", "answer": {"1" * 5000}}}',
            "a.jsonl, line 1: a number has more than 4300 digits",
        ),
        ("a.json", f'[{{"question": "q", "answer": {"1" * 5000}}}]', "a.json: a number has more than 4300 digits"),
        ("a.json", "[" * 100_000, "a.json: lists or records lie too deep in one another; write them flat"),
        ("a.jsonl", '{"a":' * 100_000, "a.jsonl, line 1: lists or records lie too deep"),
        ("a.json", "[1", "a.json: no JSON"),
        ("a.tsv", "question\tanswer\nq\ta\n", "a.tsv: questions are read from .jsonl, .json, .csv, .parquet; convert"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(pl.PoiseLabError, match=says):
        pl.load_task(tmp_path / name)
    with pytest.raises(pl.PoiseLabError, match="there is no file"):
        pl.load_task(tmp_path / "none.jsonl")


def test_what_lies_on_the_disk_is_a_file_and_a_task_is_a_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "h.csv", ROWS).rename("h.CSV")
    assert pl.load_task("h.CSV").settings["records"] == len(ROWS)
    for folder in ("folder", "gcd"):
        (tmp_path / folder).mkdir()
    Path("plain").write_text("q\n")
    for name, says in (
        ("folder", "^folder is a folder; name a file in it$"),
        ("plain", "^plain: questions are read from"),
        ("none.tsv", "^there is no file none.tsv$"),
        ("sub/none", "^there is no file sub/none$"),
        ("a" * 300 + ".csv", "^there is no file a"),
        ("nosuch", "unknown task 'nosuch'; known: "),
    ):
        with pytest.raises(pl.PoiseLabError, match=says):
            pl.load_task(name)
    assert pl.load_task("gcd").name == "gcd"


@pytest.mark.parametrize(
    ("value", "says"),
    [(10**5000, "is no text: "), (nested(100_000), "holds a list; give one")],
    ids=["digits", "lists"],
)
def test_what_python_cannot_write_out_is_one_sentence(value, says):
    with pytest.raises(pl.PoiseLabError, match=f"^record 0 of task 'records': column 'answer' {says}"):
        pl.load_task([{"question": "q", "answer": value}])
    with pytest.raises(pl.PoiseLabError, match="^column 'level' of task 'records' is no number in record 0"):
        pl.load_task([{"question": "q", "answer": "a", "level": value}], difficulty="level")


def test_a_question_that_differs_in_blanks_alone_is_the_same_question(recwarn):
    rows = [*ROWS, {"question": f" {ROWS[0]['question']}\n", "answer": f"{ROWS[0]['answer']} "}, ROWS[3]]
    task = pl.load_task(rows, prompt="{question} A number:")
    assert task.settings == pl.load_task(ROWS, prompt="{question} A number:").settings and not recwarn.list
    (kept,) = pl.load_task([{"question": " q ", "answer": " a "}]).problems
    assert (kept.question, kept.answer) == (" q ", " a ")  # as it is in the file


def test_a_question_with_two_answers_is_told():
    rows = [*ROWS, ROWS[0], {**ROWS[1], "answer": "no"}, {**ROWS[2], "answer": "no"}]
    with pytest.warns(UserWarning) as told:
        task = pl.load_task(rows)
    assert [str(w.message) for w in told] == [
        "task 'records': 3 records repeat a question and were left out, and 2 of these have another answer than the first "
        "that asks it; look at which answer is right"
    ]
    assert told[0].filename == __file__ and task.problems == pl.load_task(ROWS).problems


def test_a_line_of_a_file_ends_at_its_line_end_alone(tmp_path):
    """A text may hold what else Unicode calls the end of a line, or a sheet; JSON leaves it as it is."""
    text = "one\u2028two\x85three\x0bfour"
    jsonl, table = tmp_path / "a.jsonl", tmp_path / "a.csv"
    jsonl.write_text(json.dumps({"question": text, "answer": "1"}, ensure_ascii=False) + "\n", encoding="utf-8")
    table.write_text(f"question,answer\n{text},1\n", encoding="utf-8")
    for path in (jsonl, table):
        assert [p.question for p in pl.load_task(path).problems] == [text]


def test_a_minus_as_it_is_printed_is_a_minus():
    minus, plus = (pl.load_task([{"question": "q", "answer": n}], verify="number").problems[0] for n in (-5, 5))
    assert (minus.reward("so \u22125"), plus.reward("so \u22125")) == (1.0, 0.0)


@pytest.mark.parametrize(
    "answer, says",
    [
        ("3/4", "not one number that stands alone"),
        *(
            (text, "not one number that stands alone")
            for text in (
                "10\u00b2",
                "3\u00bd",
                "3 \u00bd",
                "2\u03c0",
                "2 \u03c0",
                "0xFF",
                "10k",
                "10K",
                "5 M",
                "5\u20136",
            )
        ),
        (r"\frac{3}{4}", "not one number that stands alone"),
        ("$1 / 2$ cup", "not one number that stands alone"),
        ("1" * 400, "is too large a number"),  # infinity to a float, and so is the distance to it from anywhere
    ],
)
def test_a_reference_that_another_number_would_match_is_refused(answer, says):
    with pytest.raises(pl.PoiseLabError, match=says):
        pl.load_task([{"question": "q", "answer": answer}], verify="number")
    assert pl.load_task([{"question": "q", "answer": f"{answer}, rounded: 42"}], verify="number").problems


@pytest.mark.parametrize("answer", ["x^2", "x + 2", "so x/2", r"2\sqrt{3}", r"5\pi", "2^n"])
def test_a_reference_that_is_an_expression_is_refused(answer):
    with pytest.raises(pl.PoiseLabError, match="ends with .*, which is not one number that stands alone"):
        pl.load_task([{"question": "q", "answer": answer}], verify="number")


@pytest.mark.parametrize(
    "text, number",
    [
        (r"\boxed{\frac{3}{4}}", "4"), (r"\frac34", "34"), (r"\frac{\sqrt{3}}{4}", "4"), ("3/4", "4"), ("3/-4", "-4"),
        ("10-3", "-3"), ("10-3", "3"), ("10 - 3", "3"), ("10 -3", "-3"), ("x-3", "-3"), ("(x+1)-3", "-3"), ("4 + 5", "5"),
        ("10 apples - 3 apples", "3"), ("$10 - $3", "3"), ("2*3", "3"), (r"3 \times 4", "4"), (r"x = \pm 3", "3"),
        ("it is 12:30", "30"), ("3,5", "5"), ("1 234", "234"), ("10\u20133", "3"),
        ("x^2", "2"), ("x^{2}", "2"), ("2^n", "2"), ("2 + x", "2"), (r"\sqrt{2}", "2"), (r"5\pi", "5"), ("5 m/s^2", "2"),
        ("- 5", "5"), ("\u2212 5", "5"), ("-$5", "5"), ("\u00b13", "3"), ("\u221a2", "2"), ("7 /3", "3"), ("4 \u00d73", "3"),
        ("7 3", "3"), ("2 (x + 1)", "2"), ("5 \\sqrt{x}", "5"),
        ("5 ^n", "5"), ("5 \\pi", "5"), ("5 \\times x", "5"), ("3 \u00bd", "3"), ("5 k", "5"), ("10K", "10"), ("\u20135", "5"),
    ],
)  # fmt: skip
def test_a_part_of_an_answer_is_not_paid(text, number):
    assert VERIFIERS["number"](text, number) == 0.0


@pytest.mark.parametrize(
    "text, number",
    [
        ("4 + 5 = 9", "9"), ("so 10 - 3 = 7", "7"), ("7/2 = 3.5", "3.5"), ("$x^2 = 4$", "4"), ("x = 5", "5"), ("x_1 = 5", "5"),
        ("the answer is -3", "-3"), ("x=-5", "-5"), ("- 5", "-5"), ("= - 5", "-5"), ("(-5)", "-5"), ("$-3$", "-3"), ("-$5", "-5"),
        ("(a) -5", "-5"), ("$1,234", "1234"), (r"\$18", "18"), ("50%", "50"), (r"$30^{\circ}$", "30"), ("$5/day", "5"),
        ("5 km/h", "5"), ("a 5-year-old", "5"), ("5 - no more", "5"), ("It took 10 minutes, 5 too many", "5"),
        ("**5**", "5"), ("it is **-5**.", "-5"), ("**Answer:** 5", "5"), ("2) **5**", "5"), ("is __5__", "5"), ("_-5_", "-5"),
        ("Answer \u2013 5", "5"), ("12\u2013 because", "12"), ("\u20135", "-5"), ("x=\u20135", "-5"), ("\uff0d5", "-5"),
        (r"\boxed{12", "12"), (r"\text{Total = }42", "42"), ("2024\n5", "5"), (r"\(5\)", "5"), (r"5\%", "5"), ("->5", "5"),
        ("Answer:5", "5"), (r"5\,\text{cm}", "5"), ("20\u00b0C", "20"), ("\u201c5\u201d", "5"), ("* 5", "5"), ("5km.", "5"), ("in step 3 x=5", "5"),
    ],
)  # fmt: skip
def test_a_number_that_stands_alone_is_paid(text, number):
    assert VERIFIERS["number"](text, number) == 1.0


@pytest.mark.parametrize(
    "text, letter",
    [
        ("The answer is B, I think.", "B"), ("B. I'm sure", "B"), ("(B) A triangle has three sides", "B"),
        ("Answer: I think it is B", "B"), ("I'd say B because A circle is round", "B"), ("B and I am sure", "B"),
        ("The answer is A because B is wrong", "A"), ("C is wrong so A is right", "A"), ("not (A), but (B)", "B"),
        ("The answer is not A but B", "B"), ("the answer is option C, as A is not", "C"), (r"\boxed{\text{B}}", "B"),
        ("B) 42", "B"), ("A or B? B", "B"), ("**B**", "B"), ("A", "A"), ("I", "I"), ("A triangle", "A"),
        ("The answer is (I).", "I"), ("I choose C", "C"),
    ],
)  # fmt: skip
def test_the_chosen_letter_is_no_word(text, letter):
    choice = VERIFIERS["choice"]
    assert [choice(text, other) for other in "ABCI"] == [float(other == letter) for other in "ABCI"]


@pytest.mark.parametrize(
    "answer",
    ["3,5", "1.234,56", "2,50 €", "1 234", "1\u202f234", "1'234", "1_234", "12:30", "1.234.567", "1,2345", "3, 5", "(3; 5)",
     "2026-11-30", "so 5+3", "10^5", r"3 \u00d7 10^{5}"],
)  # fmt: skip
def test_a_reference_of_joined_numbers_is_refused(answer):
    """Only the last of them would count: 5 for 3,5, and 234 for 1 234."""
    says = "which is not one number that stands alone .write 0.75, 3.5 or 1234.; mend it"
    with pytest.raises(pl.PoiseLabError, match=says):
        pl.load_task([{"question": "q", "answer": answer}], verify="number")
    assert pl.load_task([{"question": "q", "answer": f"{answer}, so 42"}], verify="number").problems


@pytest.mark.parametrize(
    "answer, value",
    [
        ("She sold 48/2 = <<48/2=24>>24 in May, and 48, 24 in all.\n48+24 = <<48+24=72>>72\n#### 72", 72),
        ("x = 42", 42),
        ("$1,234.50", 1234.5),
        ("-1,234,567 €", -1234567),
        ("Part 2: 5", 5),
        ("There are 3. 4 are left", 4),
        ("42 (100%)", 100),
        ("7\n8", 8),
        ("2.5e-3", 0.0025),
    ],
)
def test_a_reference_may_have_other_numbers_in_its_prose(answer, value):
    (problem,) = pl.load_task([{"question": "q", "answer": answer}], verify="number").problems
    assert problem.reward(str(value)) == 1.0


@pytest.mark.parametrize(
    "right, given, paid",
    [
        ("1000000", "1000001", 0.0),
        ("1000000", "1,000,000", 1.0),
        (str(10**20), str(10**20 + 1), 0.0),
        (str(10**20), f"+00{10**20}", 1.0),
        ("0", "-0", 1.0),
        ("7", "1" * 10_000, 0.0),
        ("1000000", "1000000.5", 1.0),
        ("1e6", "1000001", 1.0),
    ],
)
def test_whole_numbers_are_compared_exactly(right, given, paid):
    (problem,) = pl.load_task([{"question": "q", "answer": right}], verify="number").problems
    assert problem.reward(given) == paid and problem.source.verifier_errors == 0


def test_a_reference_that_names_several_letters_is_refused():
    with pytest.raises(pl.PoiseLabError, match="names A and C, of which only one could be right"):
        pl.load_task([{"question": "q", "answer": "A, C"}], verify="choice")
    pl.load_task([{"question": "q", "answer": "the answer is (C), not A"}], verify="choice")


def test_empty_columns_of_a_spreadsheet_are_passed_over(tmp_path):
    (tmp_path / "a.csv").write_text("question,answer,,\nq,3,,\n")
    assert [(p.question, p.answer) for p in pl.load_task(tmp_path / "a.csv", verify="number").problems] == [("q", "3")]


def test_a_name_that_sounds_like_no_number_costs_nothing():
    problem = pl.load_task([{"question": "Nan has 10 and buys 2.", "answer": "12"}], verify="number").problems[0]
    assert problem.reward("Nan has 12") == 1.0 and problem.source.verifier_errors == 0


def test_a_function_gets_the_record_as_it_was_given():
    rows = [{"question": "2+3", "answer": "five", "result": 5}]

    def reward(response, record):
        return float(record == rows[0] and int(response) == record["result"])

    problem = pl.load_task(rows, answer="result", verify=reward).problems[0]
    assert problem.answer == "5" and problem.reward("5") == 1.0


def test_a_function_in_c_may_be_a_verifier():
    problem = pl.load_task(ROWS, verify=max).problems[0]  # which does not say what it takes
    with pytest.warns(UserWarning, match="stopped with TypeError"):
        assert problem.reward("x") == 0.0


@pytest.mark.parametrize("answer, says", [(float("nan"), "is empty"), ("half \ud83d", "is no text")])
def test_what_is_no_answer_is_refused_at_once(answer, says):
    with pytest.raises(pl.PoiseLabError, match=f"record 0 of task 'records': column 'answer' {says}"):
        pl.load_task([{"question": "q", "answer": answer}])


def test_a_split_may_be_a_number(tmp_path):
    path = write(tmp_path / "a.csv", [{"question": f"q{i}", "answer": i, "split": i % 2} for i in range(4)])
    assert len(pl.load_task(path, split=1).problems) == 2  # as the command line reads --task-set split=1


def test_a_damaged_parquet_file_is_one_sentence(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(pl.PoiseLabError, match="a.parquet cannot be read"):
        pl.load_task(tmp_path / "a.parquet")


def test_too_few_problems_say_what_to_change():
    task = pl.load_task(ROWS)
    with pytest.raises(pl.PoiseLabError, match="64 problems, 54 after those that are held out, and 60 were asked for"):
        task.sample(60, seed=0, exclude=task.problems[:10])


def test_a_run_from_a_file_on_the_command_line(tmp_path, capfd):
    path = write(tmp_path / "questions.jsonl", ROWS)
    command = ["train", "--task", str(path), "--task-set", "verify=number", "--steps", "2", "--prompts", "8",
               "--eval-prompts", "8", "--eval-responses", "2", "--max-new-tokens", "24", "--minibatches", "2",
               "--out", str(tmp_path / "run"), "--baseline", "spo", "--set", "pool=16"]  # fmt: skip
    assert main(command) == 0, capfd.readouterr().err
    run = pl.read_run(tmp_path / "run")
    assert run.config["task"] == "questions.jsonl" and run.config["task_settings"]["verify"] == "number"
    assert main([*command[:-4], "--resume"]) in (0, 2)


def code_after(page: str, words: str) -> str:
    text = (Path(__file__).parent.parent / page).read_text(encoding="utf-8")
    section = text[text.index(words) :]
    return section[section.index("```python\n") + 10 :].partition("```")[0]


def test_the_front_pages_lines_from_a_file_to_a_trained_policy(tmp_path, monkeypatch, capsys):
    code = code_after("README.md", "## In Python, from your own questions")
    assert len(code.strip().splitlines()) <= 10
    write(
        tmp_path / "questions.jsonl",
        [{"question": f"{a}+{b}=", "answer": a + b} for a in range(17, 27) for b in range(25, 30)],
    )
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "README", "exec"), names)
    said = capsys.readouterr().out
    assert said.startswith("1.0\n") and pl.read_run("runs/own").finished
    assert pl.load_policy("my-policy").wording == "compact"
    pytest.importorskip("peft")
    exec(compile(code_after("notebooks/GUIDE.md", "**A model in memory, and LoRA**"), "GUIDE", "exec"), names)
    names["policy"].save("merged")
    one, two = pl.load_policy("runs/lora"), pl.load_policy("merged")
    assert all(torch.equal(p, two.model.state_dict()[name]) for name, p in one.model.state_dict().items())
    assert not any("lora" in name for name in one.model.state_dict()) and one.wording == "compact"


def test_a_prompt_names_the_columns_of_a_record():
    rows = [
        {"question": "How old?", "who": who, "answer": n} for who, n in (("Ann", 7), ("Bob", 9), ("", 8), (None, 8))
    ]
    task = pl.load_task([*rows, rows[0]], prompt="{who}. {question} {answer} \\boxed{} {other}", verify="number")
    assert [p.question for p in task.problems] == [
        f"{who}. How old? {{answer}} \\boxed{{}} {{other}}" for who in ("Ann", "Bob", "")
    ]  # the answer is not told, and an empty column says nothing
    renamed = pl.load_task([{"q": "1+1", "a": 2}], question="q", answer="a", prompt="{q}={question}{a}").problems
    assert [p.question for p in renamed] == ["1+1=1+1{a}"]
    echo = pl.load_task([{"w": "cat"}, {"w": "dog"}], question="w", answer="w", prompt="Repeat: {question}").problems
    assert [(p.question, p.answer) for p in echo] == [("Repeat: cat", "cat"), ("Repeat: dog", "dog")]


def test_a_backslash_that_was_not_doubled_is_told():
    with pytest.raises(pl.PoiseLabError, match=r"has the control character '\\x08' in it; write each backslash twice"):
        pl.load_task(ROWS, prompt="{question} in \boxed{}")
    with pytest.raises(pl.PoiseLabError, match="^template .* has the control character"):
        pl.load_policy("thinker", template="{question} in \boxed{}")


def test_a_list_is_no_answer_but_for_a_function():
    row = {"question": "q", "answer": ["4", "four"]}
    with pytest.raises(pl.PoiseLabError, match="column 'answer' holds a list; give one text or number, or for several"):
        pl.load_task([row], verify="exact")
    task = pl.load_task([row], verify=lambda response, record: float(response in record["answer"]))
    assert [task.problems[0].reward(text) for text in ("4", "four", "['4', 'four']")] == [1, 1, 0]
    with pytest.raises(pl.PoiseLabError, match="column 'question' holds a list"):
        pl.load_task([{"question": [{"role": "user"}], "answer": "a"}], verify=lambda response, record: 1.0)


@pytest.mark.parametrize(("given", "reward"), [(1.0000001, 1.0), (-1e-9, 0.0)])
def test_a_reward_that_rounding_has_moved_out_of_its_range(given, reward):
    assert pl.load_task([ROWS[0]], verify=lambda response, record: given).problems[0].reward("4") == reward
