"""What methods may ask of engines, what they get back, and what an engine is. Types only.

A method yields calls and never sees an engine; the runner sends each call to the pool bound to its
`role`. All of it is plain data, so that it can cross a process boundary and be journalled.
"""

from collections.abc import Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar

from msgspec import Struct

from rewardd_types import ErrorInfo, Group, GroupReward, Message, Seen


class Prompt(Struct, frozen=True, omit_defaults=True):
    """Exactly one form: messages to be rendered by the model's template, or text or ids as is."""

    messages: list[Message] | None = None
    text: str | None = None
    token_ids: list[int] | None = None


class Reply(Struct, frozen=True, omit_defaults=True):
    """What follows the prompt. `steps` are tokenised one by one, each followed by the step tag."""

    content: str | None = None
    messages: list[Message] | None = None
    text: str | None = None
    token_ids: list[int] | None = None
    steps: list[str] | None = None


class Input(Struct, frozen=True, omit_defaults=True):
    """A sequence a model reads. Without a reply, the prompt ends where the model would answer."""

    prompt: Prompt
    reply: Reply | None = None


class Usage(Struct, frozen=True, omit_defaults=True):
    """What one call cost. Tokens are counted in the rendered sequence, sampled ones included."""

    tokens_total: int = 0
    tokens_computed: int = 0
    tokens_reused: int = 0
    tokens_dropped: int = 0
    bos_count: int = 0
    truncated: bool = False
    queue_ms: float = 0.0
    compute_ms: float = 0.0


class Output(Struct, frozen=True, kw_only=True, omit_defaults=True):
    usage: Usage = Usage()
    seen: Seen | None = None


class PoolOutput(Output, frozen=True, tag="pool"):
    """`values`: one row of raw logits (classify), or one a position (token_classify).

    `positions` are the token positions of the rows in the rendered sequence.
    """

    values: list[list[float]]
    positions: list[int] = []


class LogprobsOutput(Output, frozen=True, tag="logprobs"):
    """Log-probabilities (nats) of the reply's tokens given all tokens before each.

    `labels[i]` is the log-probability of the i-th label asked for as the next token after the
    input; `over_vocabulary[t]` is the mean over the vocabulary of log p at the t-th reply token,
    with `vocabulary` entries.
    """

    token_ids: list[int] = []
    logprobs: list[float] = []
    labels: list[float] = []
    over_vocabulary: list[float] = []
    vocabulary: int = 0


class GenerateOutput(Output, frozen=True, tag="generate"):
    """One sampled continuation; `logprobs` are those of the chosen tokens at temperature 1."""

    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length"]


class ExecuteOutput(Output, frozen=True, tag="execute"):
    """What the called function returned."""

    result: Any


class ScoreOutput(Output, frozen=True, tag="score"):
    reward: GroupReward


O_co = TypeVar("O_co", bound=Output, covariant=True)


class Call(Struct, Generic[O_co], frozen=True, omit_defaults=True):
    """Typed by its output; `role` is bound to a pool by the configuration."""

    role: str


class Pool(Call[PoolOutput], frozen=True, tag="pool"):
    """Raw logits of a model's head (vLLM's pooling tasks).

    `classify` reads the last token; `token_classify` reads the tag after each step.
    """

    input: Input
    task: Literal["classify", "token_classify"] = "classify"


class Logprobs(Call[LogprobsOutput], frozen=True, tag="logprobs"):
    """Log-probabilities of the reply under a causal LM.

    With `labels`, the probability of each label (one token each) as the next token after the
    input; with `over_vocabulary`, a reduction over the full vocabulary at each reply token, which
    top-k log-probabilities cannot give.
    """

    input: Input
    labels: list[str] = []
    over_vocabulary: bool = False


class Generate(Call[GenerateOutput], frozen=True, tag="generate"):
    """One continuation. Equal seeds give equal tokens, whatever else is in the batch.

    It ends with the token that completes one of the `stop` strings, which stays in the text.
    """

    input: Input
    seed: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop: list[str] = []


class Execute(Call[ExecuteOutput], frozen=True, tag="execute"):
    """Run a named function of the pool in its sandbox; arguments and result are plain data."""

    function: str
    arguments: dict[str, Any]
    timeout_s: float = 10.0


class Score(Call[ScoreOutput], frozen=True, tag="score"):
    """Reward `group` with another served model: `role` is the model's name."""

    group: Group


class Failure(Struct, frozen=True, tag="failure"):
    """A call that gave no output. Thrown into the flow as the error it stands for."""

    error: ErrorInfo


class Scope(Struct, frozen=True, omit_defaults=True):
    """What all calls of a request share. `deadline` is in the clock of `time.monotonic`."""

    request_id: str = ""
    tenant: str = ""
    deadline: float | None = None
    priority: int = 0
    explain: bool = False
    truncate: bool = False


class EngineCard(Struct, frozen=True):
    """What a receipt says of an engine, and the catalogue of a pool."""

    engine: str
    engine_version: str
    model: str = ""
    revision: str = ""
    dtype: str = ""
    head: str | None = None
    max_length: int | None = None
    template_hash: str | None = None
    packed: bool | None = None
    packed_reason: str | None = None
    parity: float | None = None


class Engine(Protocol):
    """The boundary to whatever computes. One outcome a call, same order; never raises for one."""

    card: EngineCard

    def supports(self, call: type[Call[Any]], task: str | None = None) -> bool:
        """Whether the engine can serve such calls at all."""

    async def run(self, calls: Sequence[Call[Any]], scope: Scope) -> list[Output | Failure]:
        """Serve all calls; a call that fails gives a Failure and does not disturb the others."""

    async def health(self) -> None:
        """Raise EngineUnavailable when a real forward would not succeed now."""

    async def aclose(self) -> None: ...
