"""Sampling: transformers' greedy tokens, and the same tokens for a seed in whatever company."""

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Qwen3Config

from rewardd.engines.torch.checkpoint import Checkpoint
from rewardd.engines.torch.generate import Generator, Sample, Sampling

Loaded = Callable[[str], Checkpoint]
FAMILIES = ("qwen2_lm", "qwen3_lm", "mistral_lm", "gemma2_lm")
EOS = 2


def decode(token_ids: list[int]) -> str:
    """As the tiny tokenizers: nine special tokens, then one letter an id."""
    return "".join(chr(token + 24) if token >= 9 else f"<{token}>" for token in token_ids)


def generator(loaded: Loaded, name: str, ends: tuple[int, ...] = (EOS,)) -> Generator:
    return Generator(loaded(name).lm, ends, decode)


def ids(seed: int, length: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(9, 265), k=length))


def sampling(token_ids: tuple[int, ...], seed: int = 0, **options: Any) -> Sampling:
    fields = {"max_tokens": 20, "temperature": 1.0, "top_p": 1.0, **options}
    return Sampling(token_ids, seed, **fields)


# Lengths around the window of 16, mixed, so that shorter prompts are padded on the left.
PROMPTS = [ids(1, 5), ids(2, 40), ids(3, 1), ids(4, 17), ids(2, 40)]


def tokens(samples: list[Sample]) -> list[list[int]]:
    return [sample.token_ids for sample in samples]


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_is_transformers_greedy(loaded: Loaded, name: str) -> None:
    wanted = [sampling(prompt, temperature=0.0) for prompt in PROMPTS]
    lm: Any = loaded(name).lm
    expected = []
    for prompt in PROMPTS:
        whole = lm.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=20,
            eos_token_id=EOS,
            pad_token_id=0,
        )
        expected.append(whole[0, len(prompt) :].tolist())
    assert tokens(generator(loaded, name)(wanted)) == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_equal_seeds_give_equal_tokens_in_any_company(loaded: Loaded, name: str) -> None:
    generate = generator(loaded, name)
    wanted = [
        sampling(prompt, seed, temperature=0.7 + 0.1 * seed, top_p=1 - 0.05 * seed)
        for seed, prompt in enumerate(PROMPTS)
    ]
    alone = [generate([one])[0] for one in wanted]
    assert len(set(map(tuple, tokens(alone)))) == len(wanted)
    together = generate(wanted)
    assert tokens(together) == tokens(alone)
    assert tokens(generate(wanted[::-1]))[::-1] == tokens(alone)
    strangers = [sampling(ids(9, 23), seed=n, max_tokens=5 + 9 * n) for n in range(3)]
    assert tokens(generate([*strangers, *wanted]))[3:] == tokens(alone)
    for one, other in zip(alone, together, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_other_seeds_give_other_tokens(loaded: Loaded) -> None:
    wanted = [sampling(PROMPTS[0], seed) for seed in range(16)]
    found = tokens(generator(loaded, "qwen3_lm", ends=())(wanted))
    assert len(set(map(tuple, found))) == 16
    assert tokens(generator(loaded, "qwen3_lm", ends=())(wanted)) == found


@pytest.mark.parametrize("name", FAMILIES)
def test_log_probabilities_are_those_of_a_plain_forward(loaded: Loaded, name: str) -> None:
    wanted = [sampling(prompt, seed, temperature=0.8) for seed, prompt in enumerate(PROMPTS)]
    lm: Any = loaded(name).lm
    lm.set_attn_implementation("eager")
    for one, sample in zip(wanted, generator(loaded, name)(wanted), strict=True):
        whole = torch.tensor([[*one.token_ids, *sample.token_ids]])
        with torch.inference_mode():
            logits = lm(whole, use_cache=False).logits[0].float()
        logprobs = logits.log_softmax(-1)[len(one.token_ids) - 1 : -1]
        chosen = logprobs.gather(1, torch.tensor(sample.token_ids)[:, None])[:, 0]
        assert sample.logprobs == pytest.approx(chosen.tolist(), abs=1e-4)


def test_a_tiny_nucleus_is_greedy(loaded: Loaded) -> None:
    generate = generator(loaded, "qwen3_lm")
    nucleus = [sampling(prompt, 7, top_p=1e-9) for prompt in PROMPTS]
    greedy = [sampling(prompt, temperature=0.0) for prompt in PROMPTS]
    assert tokens(generate(nucleus)) == tokens(generate(greedy))


def test_a_tiny_temperature_is_greedy(loaded: Loaded) -> None:
    generate = generator(loaded, "qwen3_lm")
    cold = [sampling(prompt, 7, temperature=1e-40) for prompt in PROMPTS]
    greedy = [sampling(prompt, temperature=0.0) for prompt in PROMPTS]
    assert tokens(generate(cold)) == tokens(generate(greedy))


class FixedLM(torch.nn.Module):
    """Says the same distribution whatever it reads, to look at sampling alone."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.row = torch.nn.Parameter(torch.tensor(logits), requires_grad=False)
        self.config = Qwen3Config(num_hidden_layers=1, attn_implementation="eager")

    def forward(self, input_ids: torch.Tensor, **others: Any) -> Any:
        return SimpleNamespace(logits=self.row.expand(*input_ids.shape, -1))


def shares(logits: list[float], count: int = 4000, **options: Any) -> list[float]:
    generate = Generator(FixedLM(logits), (), decode)
    wanted = [sampling((1,), seed, max_tokens=1, **options) for seed in range(count)]
    drawn = [sample.token_ids[0] for sample in generate(wanted)]
    return [drawn.count(token) / count for token in range(len(logits))]


PROBABILITIES = [0.1, 0.5, 0.15, 0.25]
LOGITS = [float(x) for x in torch.tensor(PROBABILITIES).log()]


def test_tokens_are_drawn_by_their_probability() -> None:
    assert shares(LOGITS) == pytest.approx(PROBABILITIES, abs=0.03)


def test_temperature_sharpens() -> None:
    squared = [p * p for p in PROBABILITIES]
    expected = [p / sum(squared) for p in squared]
    assert shares(LOGITS, temperature=0.5) == pytest.approx(expected, abs=0.03)


def test_the_nucleus_is_the_smallest_set_that_reaches_top_p() -> None:
    """0.5 and 0.25 reach 0.7; what crosses the border stays in."""
    assert shares(LOGITS, top_p=0.7) == pytest.approx([0, 2 / 3, 0, 1 / 3], abs=0.03)
    assert shares(LOGITS, top_p=0.5, count=200) == [0, 1, 0, 0]


class TestEnds:
    def test_the_end_token_ends_and_is_kept(self, loaded: Loaded) -> None:
        prompt = PROMPTS[0]
        free = generator(loaded, "qwen3_lm", ends=())([sampling(prompt, 3)])[0]
        end = free.token_ids[6]
        assert end not in free.token_ids[:6]
        (sample,) = generator(loaded, "qwen3_lm", ends=(end,))([sampling(prompt, 3)])
        assert sample.token_ids == free.token_ids[:7]
        assert sample.finished
        assert not free.finished

    def test_a_length_is_no_end(self, loaded: Loaded) -> None:
        wanted = [sampling(PROMPTS[0], 3, max_tokens=n) for n in (1, 4, 9)]
        samples = generator(loaded, "qwen3_lm", ends=())(wanted)
        assert [len(one) for one in tokens(samples)] == [1, 4, 9]
        assert not any(sample.finished for sample in samples)
        assert tokens(samples)[0] == tokens(samples)[2][:1]

    @pytest.mark.parametrize("length", [1, 2, 5])
    def test_a_stop_string_ends_it_with_the_token_that_completes_it(
        self, loaded: Loaded, length: int
    ) -> None:
        free = generator(loaded, "qwen3_lm", ends=())([sampling(PROMPTS[0], 3)])[0]
        stop = decode(free.token_ids)[6 : 6 + length]
        first = decode(free.token_ids).index(stop)
        generate = generator(loaded, "qwen3_lm", ends=())
        (sample,) = generate([sampling(PROMPTS[0], 3, stop=("not there", stop))])
        assert sample.token_ids == free.token_ids[: first + length]
        assert sample.finished

    def test_a_stop_string_longer_than_a_hundred_tokens(self, loaded: Loaded) -> None:
        generate = generator(loaded, "qwen3_lm", ends=())
        (free,) = generate([sampling(PROMPTS[0], 3, max_tokens=160)])
        stop = decode(free.token_ids)[10:130]
        (sample,) = generate([sampling(PROMPTS[0], 3, max_tokens=160, stop=(stop,))])
        first = next(n for n in range(161) if stop in decode(free.token_ids[:n]))
        assert 100 < first < 160
        assert sample.token_ids == free.token_ids[:first]

    def test_stops_are_each_rows_own(self, loaded: Loaded) -> None:
        generate = generator(loaded, "qwen3_lm", ends=())
        (free,) = generate([sampling(PROMPTS[0], 3)])
        stop = decode(free.token_ids)[4]
        stopped, other = generate([sampling(PROMPTS[0], 3, stop=(stop,)), sampling(PROMPTS[0], 3)])
        assert other.token_ids == free.token_ids
        assert len(stopped.token_ids) <= 5


def test_nan_is_said_and_ends_only_its_row() -> None:
    class Broken(FixedLM):
        def forward(self, input_ids: torch.Tensor, **others: Any) -> Any:
            out = super().forward(input_ids)
            out.logits = out.logits.clone()
            out.logits[input_ids[:, -1] == 3] = torch.nan
            return out

    generate = Generator(Broken([5.0, 0.0, 0.0, 0.0]), (), decode)
    wanted = [sampling((1,), temperature=0.0), sampling((3,), temperature=0.0)]
    good, bad = generate(wanted)
    assert (good.finite, good.token_ids) == (True, [0] * 20)
    assert (bad.finite, len(bad.token_ids)) == (False, 1)
