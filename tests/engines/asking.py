"""What the tests of the torch engine ask, and how they read the answers."""

from collections.abc import Sequence
from typing import Any

from rewardd.core.calls import (
    Call,
    Failure,
    Generate,
    GenerateOutput,
    Input,
    Logprobs,
    LogprobsOutput,
    Output,
    Pool,
    PoolOutput,
    Prompt,
    Reply,
    Scope,
)
from rewardd.core.chat import input_of, prompt_of
from rewardd.engines.torch.engine import TorchEngine
from rewardd_types import Group, Message, Response

NOW = Scope()
PATIENCE_S = 20.0
WORDS = "So we add two and two, which are four. "


def groups(kind: str = "content") -> list[Group]:
    """A shared prompt, replies that are prefixes of each other, duplicates, one character."""
    texts = [WORDS * 2, WORDS, WORDS * 2, WORDS[:7], "4", "☕ vier"]
    prompts = ["What is 2 + 2?", "Was ist 2 + 2? 🙂"]
    return [
        Group([Response(**{kind: text}) for text in texts], **_prompt(kind, prompt))
        for prompt in prompts
    ]


def _prompt(kind: str, prompt: str) -> dict[str, Any]:
    return {"text": prompt} if kind == "text" else {"prompt": prompt}


def stepwise() -> list[Group]:
    steps = [["2 + 2", "is 4", "so 4"], ["2 + 2", "is 4"], ["2 + 2"], ["so it is 5", ""]]
    return [Group([Response(steps=each) for each in steps], prompt="2 + 2?")]


def pool(text: str, reply: str | None = None) -> Pool:
    return Pool("reward", Input(Prompt(text=text), None if reply is None else Reply(text=reply)))


def calls_of(engine: TorchEngine, groups: Sequence[Group]) -> list[Call[Any]]:
    found: list[Call[Any]] = []
    for group in groups:
        for response in group.responses:
            if engine.supports(Pool, "token_classify"):
                steps = Input(prompt_of(group), Reply(steps=response.steps))
                found.append(Pool("process", steps, "token_classify"))
            elif engine.supports(Logprobs):
                found.append(Logprobs("policy", input_of(group, response)))
            else:
                found.append(Pool("reward", input_of(group, response)))
    return found


def numbers(outcomes: Sequence[Output | Failure]) -> list[list[float]]:
    """All numbers of each output in a row."""
    found = []
    for outcome in outcomes:
        assert isinstance(outcome, PoolOutput | LogprobsOutput), outcome
        rows = outcome.values if isinstance(outcome, PoolOutput) else [outcome.logprobs]
        found.append([number for row in rows for number in row])
    return found


def close(one: list[list[float]], other: list[list[float]]) -> bool:
    assert [len(row) for row in one] == [len(row) for row in other]
    pairs = [(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return max(abs(a - b) for a, b in pairs) <= 1e-4


def codes(outcomes: Sequence[Output | Failure]) -> list[str | None]:
    return [outcome.error.code if isinstance(outcome, Failure) else None for outcome in outcomes]


def first(found: list[Group]) -> tuple[Group, Response]:
    return found[0], found[0].responses[0]


def generate(text: str, seed: int = 0, **options: Any) -> Generate:
    fields = {"max_tokens": 12, **options}
    return Generate("generator", Input(Prompt(messages=[Message("user", text)])), seed, **fields)


def sampled(outcome: Output | Failure) -> tuple[int, ...]:
    if isinstance(outcome, LogprobsOutput):
        return tuple(round(1e4 * number) for number in outcome.logprobs)
    assert isinstance(outcome, GenerateOutput), outcome
    return tuple(outcome.token_ids)
