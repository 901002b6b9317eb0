"""The wire vocabulary of rewardd: what travels between a caller and the server."""

from rewardd_types.catalogue import (
    Health,
    MethodInfo,
    MethodList,
    ModelInfo,
    ModelList,
    PoolInfo,
)
from rewardd_types.errors import ErrorBody, ErrorInfo
from rewardd_types.groups import Criterion, Group, Message, Response
from rewardd_types.requests import RewardRequest, RewardResponse
from rewardd_types.rewards import GroupReward, Receipt, Reward, Seen, Status, StepReward

__all__ = [
    "Criterion",
    "ErrorBody",
    "ErrorInfo",
    "Group",
    "GroupReward",
    "Health",
    "Message",
    "MethodInfo",
    "MethodList",
    "ModelInfo",
    "ModelList",
    "PoolInfo",
    "Receipt",
    "Response",
    "Reward",
    "RewardRequest",
    "RewardResponse",
    "Seen",
    "Status",
    "StepReward",
]
