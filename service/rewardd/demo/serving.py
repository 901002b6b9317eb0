"""The demo as configuration: its pools, and a served model for each family of methods."""

from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).parent / "weights"

_MODELS: dict[str, dict[str, Any]] = {
    "demo-outcome": {"method": "scalar", "roles": {"reward": "demo-outcome"}},
    "demo-preference": {"method": "bradley_terry", "roles": {"reward": "demo-outcome"}},
    "demo-process": {"method": "prm", "roles": {"process": "demo-process"}},
    "demo-certainty": {"method": "self_certainty", "roles": {"policy": "demo-generator"}},
    "demo-rubric": {
        "method": "rubric",
        "roles": {"judge": "demo-generator"},
        # The generator knows arithmetic and no English: the route works, its verdicts mean nothing.
        "params": {"labels": ["1", "0"]},
    },
    "demo-math": {"method": "math_answer", "roles": {"verifier": "verifier"}},
    "demo-mix": {
        "method": "weighted",
        "params": {"models": {"demo-outcome": 0.1, "demo-math": 1.0}},
    },
}


def demo_tables(engine: dict[str, str], weights: Path = WEIGHTS) -> dict[str, Any]:
    """The `[pools]` and `[models]` of the demo; `engine` holds dtype and device if given."""
    pools: dict[str, Any] = {
        f"demo-{name}": {"engine": "torch", "model": str(weights / name), **engine}
        for name in ("outcome", "process", "generator")
    }
    return {"pools": {**pools, "verifier": {"engine": "sandbox"}}, "models": _MODELS}
