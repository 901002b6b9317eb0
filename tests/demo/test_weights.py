"""The committed weights: standard files that load without remote code and know their task."""

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from rewardd.demo import data, evaluate

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
sampling = pytest.importorskip("rewardd.demo.train_sampling")

from rewardd.demo.train_examples import Chain, right_chain  # noqa: E402
from tests.demo import plain_scores  # noqa: E402

WEIGHTS = Path(evaluate.__file__).with_name("weights")
ARCHITECTURES = {
    "generator": "Qwen3ForCausalLM",
    "outcome": "Qwen3ForSequenceClassification",
    "process": "Qwen2ForProcessRewardModel",
}
PROBLEMS = list(islice(data.problems(99, "held_out"), 60))


@pytest.fixture(scope="module")
def fast() -> Any:
    return tokenizers.Tokenizer.from_file(str(WEIGHTS / "generator" / "tokenizer.json"))


@pytest.fixture(scope="module")
def chains() -> list[Chain]:
    """Right chains, then the same with the result of one step raised by one and followed."""
    return [*map(right_chain, PROBLEMS), *map(slipped, PROBLEMS)]


def slipped(problem: data.Problem) -> Chain:
    def slip(index: int, step: data.Step) -> data.Step:
        return step._replace(result=(step.result + 1) % 100) if index == 1 else step

    return Chain(problem, tuple(data._write(problem.root, slip)))


@pytest.mark.parametrize(("name", "architecture"), ARCHITECTURES.items())
def test_the_files_are_standard(name: str, architecture: str) -> None:
    config = json.loads((WEIGHTS / name / "config.json").read_text())
    assert config["architectures"] == [architecture]
    assert "auto_map" not in config
    assert config["head_dim"] in (32, 64)
    body = transformers.AutoModel.from_pretrained(WEIGHTS / name)
    assert body.config.vocab_size == len(transformers.AutoTokenizer.from_pretrained(WEIGHTS / name))


def test_the_training_command_answers() -> None:
    command = [sys.executable, "-m", "rewardd.demo.train", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--out" in done.stdout


def test_they_are_small_enough_to_commit() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*")) < 12e6


def test_the_card_holds_the_figures_and_they_meet_the_targets() -> None:
    card = json.loads((WEIGHTS / "card.json").read_text())
    assert card["problems"] >= 1000
    assert 0.3 <= card["single_accuracy"] <= 0.6
    assert card["pair_accuracy"] >= 0.90
    assert card["first_error_accuracy"] >= 0.85
    assert card["best_of_16_accuracy"] >= card["majority_16_accuracy"]
    assert card["gap_closed"] >= 0.60


def test_the_generator_is_often_right_and_often_wrong(fast: Any) -> None:
    model = sampling.load_generator(WEIGHTS / "generator")
    replies = sampling.sample(model, fast, PROBLEMS, 4, seed=0)
    right = [
        data.extract_answer(text) == problem.answer
        for problem, texts in zip(PROBLEMS, replies, strict=True)
        for text in texts
    ]
    assert 0.2 < sum(right) / len(right) < 0.7
    assert replies == sampling.sample(model, fast, PROBLEMS, 4, seed=0)


def test_the_outcome_model_prefers_right_answers(fast: Any, chains: list[Chain]) -> None:
    rewards = plain_scores.outcome_rewards(WEIGHTS / "outcome", chains, fast)
    right, wrong = rewards[: len(PROBLEMS)], rewards[len(PROBLEMS) :]
    assert sum(r > w for r, w in zip(right, wrong, strict=True)) / len(PROBLEMS) > 0.85


def test_the_outcome_reward_is_what_the_whole_model_says(fast: Any) -> None:
    chain = right_chain(PROBLEMS[0])
    tokenizer = transformers.AutoTokenizer.from_pretrained(WEIGHTS / "outcome")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        WEIGHTS / "outcome", dtype=torch.float32
    )
    messages = [
        {"role": "user", "content": chain.problem.text},
        {"role": "assistant", "content": "\n".join(chain.lines)},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    with torch.inference_mode():
        whole = model(input_ids=ids).logits.item()
    assert plain_scores.outcome_rewards(WEIGHTS / "outcome", [chain], fast) == [
        pytest.approx(whole)
    ]


def test_the_process_model_finds_the_wrong_step(fast: Any, chains: list[Chain]) -> None:
    rewards = plain_scores.step_rewards(WEIGHTS / "process", chains, fast)
    predicted = list(map(evaluate.predicted_error, rewards))
    right, wrong = predicted[: len(PROBLEMS)], predicted[len(PROBLEMS) :]
    assert right.count(None) / len(PROBLEMS) > 0.8
    assert wrong.count(1) / len(PROBLEMS) > 0.8
