"""What a caller gets back: rewards, in the order of the responses, with receipts."""

from typing import Literal

from msgspec import Struct

from rewardd_types.errors import ErrorInfo

Status = Literal["ok", "unscorable", "error"]


class StepReward(Struct, frozen=True):
    """The reward of one reasoning step and where that step stands.

    `start` and `end` are character offsets into the response's `content` (null when the caller
    sent `steps` alone); `token_end` is the position of the token that was read, in the rendered
    sequence.
    """

    value: float | None
    start: int | None = None
    end: int | None = None
    token_end: int | None = None


class Seen(Struct, frozen=True):
    """With `explain`: what the model read, for one call.

    `positions` are the token positions the value was read at.
    """

    role: str
    text: str
    token_ids: list[int]
    positions: list[int]


class Reward(Struct, frozen=True):
    """The reward of one response.

    `value` is null unless `status` is `ok`: `unscorable` means the method found nothing to score
    (say why in `error`), `error` that something failed. A failure is never a number.
    """

    id: str | None = None
    value: float | None = None
    status: Status = "ok"
    error: ErrorInfo | None = None
    components: dict[str, float | None] = {}
    steps: list[StepReward] | None = None
    metrics: dict[str, float | None] = {}
    rationale: str | None = None
    seen: list[Seen] | None = None

    def __post_init__(self) -> None:
        if self.value is not None and self.status != "ok":
            raise ValueError(f"a reward that is `{self.status}` has no value")


class Receipt(Struct, frozen=True):
    """How the values of one role came about: enough to reproduce or to doubt them."""

    role: str
    pool: str
    model: str
    revision: str
    engine: str
    engine_version: str
    dtype: str
    template_hash: str | None = None
    raw_logit: bool = True
    bos_count: int = 0
    tokens_total: int = 0
    tokens_computed: int = 0
    tokens_reused: int = 0
    truncated: bool = False
    tokens_dropped: int = 0
    queue_ms: float = 0.0
    compute_ms: float = 0.0


class GroupReward(Struct, frozen=True):
    """The rewards of one group: same length and order as its responses.

    `preference[i][j]` is the probability that response i is preferred to response j; null where
    either could not be scored. `status` is `ok` when every reward is, `error` when none is,
    else `partial`.
    """

    rewards: list[Reward]
    id: str | None = None
    status: Literal["ok", "partial", "error"] = "ok"
    preference: list[list[float | None]] | None = None
    receipts: list[Receipt] = []
