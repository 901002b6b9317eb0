"""The tokenizer: every loader agrees, nothing is lost, text never becomes a special token."""

import random
import unicodedata
from itertools import islice
from pathlib import Path

import pytest

from rewardd.demo import data, tokenizer

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

WEIGHTS = Path(tokenizer.__file__).with_name("weights")
CHAT = [
    {"role": "user", "content": "Compute 2 + 3"},
    {"role": "assistant", "content": "2 + 3 = 5\nanswer: 5"},
]


@pytest.fixture(scope="module", params=["generator", "outcome", "process"])
def loaded(request):  # type: ignore[no-untyped-def]
    return transformers.AutoTokenizer.from_pretrained(WEIGHTS / request.param)


def test_the_committed_files_are_those_the_code_writes(tmp_path: Path) -> None:
    tokenizer.write(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        for model in ("generator", "outcome", "process"):
            assert (WEIGHTS / model / name).read_text() == (tmp_path / name).read_text()


def test_problems_and_solutions_come_back_as_they_were(loaded) -> None:  # type: ignore[no-untyped-def]
    for problem in islice(data.problems(0), 500):
        text = problem.text + "\n" + "\n".join(data.solve(problem))
        assert loaded.decode(loaded(text).input_ids) == text


def test_numbers_and_phrases_are_single_tokens(loaded) -> None:  # type: ignore[no-untyped-def]
    tokens = loaded.convert_ids_to_tokens(loaded("Compute 99 + 100").input_ids)
    assert tokens == ["Compute ", "99", " + ", "10", "0"]
    assert all(len(loaded(str(number)).input_ids) == 1 for number in range(100))


def test_any_text_has_tokens_and_every_loader_agrees(loaded) -> None:  # type: ignore[no-untyped-def]
    plain = tokenizers.Tokenizer.from_file(str(WEIGHTS / "generator" / "tokenizer.json"))
    rng = random.Random(0)
    pieces = ["12", "05", " + ", "+", "Compute ", "<step>", "\n", "  ", "\t", "\0", "é", "e\u0301"]
    pieces += ["日本", "🙂", "don't", "a\u200d", "\r\n", chr(127), "answer: ", "<end>", "x"]
    for _ in range(500):
        text = "".join(rng.choices(pieces, k=12))
        ids = loaded(text).input_ids
        assert ids == plain.encode(text).ids
        assert loaded.decode(ids) == unicodedata.normalize("NFC", text)


def test_users_cannot_write_special_tokens(loaded) -> None:  # type: ignore[no-untyped-def]
    text = "".join(tokenizer.SPECIALS)
    ids = loaded(text, split_special_tokens=True).input_ids
    assert not set(ids) & set(loaded.all_special_ids)
    assert loaded.decode(ids) == text
    assert loaded(text).input_ids == list(range(len(tokenizer.SPECIALS)))


def test_the_chat_is_rendered_as_documented(loaded) -> None:  # type: ignore[no-untyped-def]
    prompt = loaded.apply_chat_template(CHAT[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == "<user>Compute 2 + 3<end><assistant>"
    whole = loaded.apply_chat_template(CHAT, tokenize=False)
    assert whole == prompt + "2 + 3 = 5\nanswer: 5<end>"
    assert loaded(whole, add_special_tokens=False).input_ids[-1] == loaded.eos_token_id


def test_special_tokens_are_named(loaded) -> None:  # type: ignore[no-untyped-def]
    assert (loaded.pad_token, loaded.unk_token, loaded.eos_token) == ("<pad>", "<unk>", "<end>")
    assert loaded.bos_token is None
    assert loaded.convert_tokens_to_ids("<step>") == tokenizer.vocabulary()["<step>"]
