"""What is queued is valid, and which of the queue goes next. No model."""

from typing import Any

import numpy as np
import pytest

from rewardd.core.calls import Generate, Input, Logprobs, Pool, Prompt, Reply
from rewardd.engines.rendering import Rendered
from rewardd.engines.torch.jobs import (
    CACHED,
    MAX_READS,
    MAX_ROWS,
    GenerateJob,
    Job,
    ReadJob,
    choose,
    generate_job,
    logprobs_job,
    pool_job,
    reply_span,
)
from rewardd.errors import InvalidRequest, UnsupportedCall

PROMPT = Input(Prompt(text="?"))
ANSWERED = Input(Prompt(text="?"), Reply(text="!"))
STEPS = Input(Prompt(text="?"), Reply(steps=["a", "b"]))


def read(*token_ids: int) -> ReadJob:
    return pool_job(Pool("reward", ANSWERED), Rendered(list(token_ids)))


def sample(*token_ids: int) -> GenerateJob:
    return generate_job(Generate("g", PROMPT, seed=0, max_tokens=1), Rendered([*token_ids]), 100)


class TestPool:
    def test_classify_reads_the_last_token_whatever_it_is(self) -> None:
        assert read(9, 9, 0, 0).positions.tolist() == [3]

    def test_token_classify_reads_the_tags(self) -> None:
        rendered = Rendered([9, 5, 9, 5, 9], tags=[1, 3])
        job = pool_job(Pool("process", STEPS, "token_classify"), rendered)
        assert job.positions.tolist() == [1, 3]

    def test_token_classify_without_steps_is_refused(self) -> None:
        with pytest.raises(UnsupportedCall, match="`steps`"):
            pool_job(Pool("process", ANSWERED, "token_classify"), Rendered([9]))

    @pytest.mark.parametrize("asked", [PROMPT, Input(Prompt(text="?"), Reply(steps=[]))])
    def test_no_step_at_all_is_an_error(self, asked: Input) -> None:
        with pytest.raises(InvalidRequest, match="no step"):
            pool_job(Pool("process", asked, "token_classify"), Rendered([9]))


class TestLogprobs:
    def test_the_state_before_each_reply_token(self) -> None:
        job = logprobs_job(Logprobs("p", ANSWERED), Rendered([9, 8, 7, 6], reply=(2, 4)), ())
        assert job.positions.tolist() == [1, 2]

    def test_labels_are_read_at_the_last_token(self) -> None:
        call = Logprobs("p", ANSWERED, labels=["y"])
        job = logprobs_job(call, Rendered([9, 8, 7, 6], reply=(2, 3)), (65,))
        assert job.positions.tolist() == [1, 3]

    def test_labels_without_a_reply(self) -> None:
        call = Logprobs("p", PROMPT, labels=["y"])
        job = logprobs_job(call, Rendered([9, 8, 7]), (65,))
        assert job.positions.tolist() == [2]
        assert reply_span(call, job.rendered) == (1, 1)

    def test_an_empty_reply_reads_nothing(self) -> None:
        job = logprobs_job(Logprobs("p", ANSWERED), Rendered([9, 8], reply=(2, 2)), ())
        assert job.positions.tolist() == []
        assert job.positions.dtype == np.int64

    def test_a_first_token_has_nothing_before_it(self) -> None:
        with pytest.raises(InvalidRequest, match="prompt is empty"):
            logprobs_job(Logprobs("p", ANSWERED), Rendered([9, 8], reply=(0, 2)), ())

    def test_a_reply_the_template_rewrote_cannot_be_read(self) -> None:
        with pytest.raises(UnsupportedCall, match="rewrites"):
            logprobs_job(Logprobs("p", ANSWERED), Rendered([9, 8]), ())


class TestGenerate:
    def test_room_is_checked(self) -> None:
        call = Generate("g", PROMPT, seed=0, max_tokens=91)
        with pytest.raises(InvalidRequest, match="max_tokens 91 after 10"):
            generate_job(call, Rendered([9] * 10), 100)
        assert generate_job(call, Rendered([9] * 9), 100).sampling.max_tokens == 91

    @pytest.mark.parametrize(
        "wrong",
        [
            {"max_tokens": 0},
            {"max_tokens": -1},
            {"temperature": -0.1},
            {"temperature": float("nan")},
            {"temperature": float("inf")},
            {"top_p": 0.0},
            {"top_p": 1.1},
            {"top_p": float("nan")},
            {"seed": 2**64},
            {"seed": -(2**63) - 1},
            {"stop": ["a", ""]},
        ],
    )
    def test_numbers_that_would_fail_the_batch_are_refused(self, wrong: dict[str, Any]) -> None:
        fields = {"seed": 0, "max_tokens": 4, **wrong}
        with pytest.raises(InvalidRequest):
            generate_job(Generate("g", PROMPT, **fields), Rendered([9]), 100)

    @pytest.mark.parametrize("seed", [0, -1, 2**64 - 1, -(2**63)])
    def test_any_seed_of_64_bits(self, seed: int) -> None:
        call = Generate("g", PROMPT, seed=seed, max_tokens=1, temperature=0.0)
        assert generate_job(call, Rendered([9]), 100).sampling.seed == seed


class TestChoose:
    def test_up_to_the_budget_of_unique_tokens(self) -> None:
        jobs: list[Job] = [read(1, 2, 3, 4), read(1, 2, 3, 5), read(1, 2, 3), read(6, 7)]
        assert choose(jobs, 7) == [0, 1, 2, 3]
        assert choose(jobs, 6) == [0, 1, 2]
        assert choose(jobs, 4) == [0]

    def test_one_larger_than_the_budget_still_goes(self) -> None:
        assert choose([read(*range(50)), read(1)], 10) == [0]

    def test_one_kind_a_batch_that_of_the_oldest(self) -> None:
        jobs: list[Job] = [read(1), sample(1), read(2), sample(2)]
        assert choose(jobs, 100) == [0, 2]
        assert choose(jobs[1:], 100) == [0, 2]

    def test_samples_by_rows(self) -> None:
        jobs: list[Job] = [sample(1)] * (MAX_ROWS + 5)
        assert choose(jobs, 16_384) == list(range(MAX_ROWS))

    def test_samples_by_the_cache_they_fill(self) -> None:
        width = len(sample(1).rendered.token_ids) + sample(1).sampling.max_tokens
        assert choose([sample(1)] * 10, width) == list(range(CACHED))
        assert choose([sample(1)] * 10, 1) != []
        assert choose([sample(1)], 0) == [0]

    def test_the_number_of_sequences_is_bounded(self) -> None:
        jobs: list[Job] = [read(1)] * (MAX_READS + 5)
        assert len(choose(jobs, 100)) == MAX_READS
