"""The Python client of rewardd: `Client` and `AsyncClient`, their errors, and the wire types.

Importing it loads httpx and msgspec, nothing heavier.
"""

from rewardd_client._async_client import AsyncClient
from rewardd_client._client import Client
from rewardd_client._errors import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    AuthenticationError,
    BadRequest,
    DeadlineExceeded,
    InvalidRequest,
    MalformedAnswer,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    RateLimited,
    RewarddError,
    RewardError,
    ServerError,
    Unavailable,
)
from rewardd_client._values import values
from rewardd_client._version import __version__
from rewardd_types import (
    Criterion,
    Group,
    GroupReward,
    Health,
    Message,
    MethodInfo,
    ModelInfo,
    Receipt,
    Response,
    Reward,
    StepReward,
)

__all__ = [
    "APIConnectionError",
    "APIError",
    "APITimeoutError",
    "AsyncClient",
    "AuthenticationError",
    "BadRequest",
    "Client",
    "Criterion",
    "DeadlineExceeded",
    "Group",
    "GroupReward",
    "Health",
    "InvalidRequest",
    "MalformedAnswer",
    "Message",
    "MethodInfo",
    "ModelInfo",
    "NotFound",
    "PayloadTooLarge",
    "PermissionDenied",
    "RateLimited",
    "Receipt",
    "Response",
    "Reward",
    "RewardError",
    "RewarddError",
    "ServerError",
    "StepReward",
    "Unavailable",
    "__version__",
    "values",
]
