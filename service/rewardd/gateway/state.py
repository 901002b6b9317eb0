"""What the parts of one gateway share."""

from dataclasses import dataclass, field

from rewardd.assembly import Service
from rewardd.telemetry import Telemetry


@dataclass(slots=True)
class State:
    """`draining`: the process is about to stop, and asks for no new work through /readyz."""

    service: Service
    telemetry: Telemetry = field(default_factory=Telemetry)
    draining: bool = False
