"""What the models are trained on: where a reply is judged, learnt and compared."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from rewardd.demo import data, tokenizer
from rewardd.demo.data import parse

torch = pytest.importorskip("torch")
tokenizers = pytest.importorskip("tokenizers")
examples = pytest.importorskip("rewardd.demo.train_examples")

NAMES = {id: token for token, id in tokenizer.vocabulary().items()}
PROBLEM = parse("(1 + 2) * 3")


@pytest.fixture
def fast(tmp_path: Path) -> Any:
    tokenizer.write(tmp_path)
    return tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))


def shown(lines: list[str], form: str, fast: Any) -> list[str]:
    """Each token of the reply with its verdict and, after `'`, whether it could be expected."""
    (row,) = examples.sequences([examples.Chain(PROBLEM, tuple(lines))], form, fast)
    sign = {1: "+", 0: "-", examples.IGNORE: "."}
    start = len(examples.encode([examples.prompt_text(PROBLEM)], fast)[0])
    assert set(row.labels[:start] + row.tokens[:start]) == {examples.IGNORE}
    columns = zip(row.ids, row.labels, row.tokens, strict=True)
    return [f"{NAMES[id]}{sign[label]}{sign[token]}" for id, label, token in columns][start:]


def test_a_right_chat_is_judged_at_newlines_and_its_end(fast: Any) -> None:
    assert shown(["1 + 2 = 3", "3 * 3 = 9", "answer: 9"], "chat", fast) == [
        *("1.+", " + .+", "2.+", " = .+", "3.+", "Ċ++"),
        *("3.+", " * .+", "3.+", " = .+", "9.+", "Ċ++"),
        *("answer: .+", "9.+", "<end>++"),
    ]


def test_steps_are_judged_at_tags_and_stay_wrong(fast: Any) -> None:
    assert shown(["1 + 2 = 4", "4 * 3 = 12", "answer: 13"], "steps", fast) == [
        *("1.+", " + .+", "2.+", " = .+", "4.-", "<step>-+"),
        *("4.+", " * .+", "3.+", " = .+", "12.+", "<step>-+"),
        *("answer: .+", "13.-", "<step>-+"),
    ]


def test_after_a_line_that_leaves_the_problem_nothing_is_expected(fast: Any) -> None:
    assert shown(["2 * 3 = 6", "answer: 9"], "chat", fast) == [
        *("2.-", " * ..", "3..", " = ..", "6..", "Ċ-."),
        # The outcome is the answer's alone.
        *("answer: ..", "9..", "<end>+."),
    ]


def test_what_is_learnt_is_the_next_expected_token(fast: Any) -> None:
    chains = [examples.right_chain(problem) for problem in islice(data.problems(0), 8)]
    (batch,) = examples.batches(chains, "chat", fast, rows=8)
    learnt = batch.targets != examples.IGNORE
    assert (batch.targets[:, :-1] == batch.ids[:, 1:])[learnt[:, :-1]].all()
    assert learnt.sum() == (batch.tokens == 1).sum()
