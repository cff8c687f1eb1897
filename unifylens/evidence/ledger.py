"""The claims, and the thresholds they were given before any run: `ledger.toml`, one entry a claim."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Literal

Direction = Literal["at least", "at most"]


@dataclass(frozen=True)
class Claim:
    """What is claimed, and what an experiment must show for it to hold."""

    id: str
    statement: str
    notebook: str
    effect_name: str
    threshold: float
    direction: Direction
    control_name: str
    control_threshold: float
    control_direction: Direction
    limits: Mapping[str, float] = field(default_factory=dict)
    """Further numbers that were set before the run, by name."""

    @property
    def needs(self) -> str:
        """The effect's threshold in words: which bound of the interval must pass it."""
        bound = "lower" if self.direction == "at least" else "upper"
        return f"{self.direction} {self.threshold:g} ({bound} bound)"

    @property
    def control_needs(self) -> str:
        """The control's threshold in words."""
        return f"{self.control_direction} {self.control_threshold:g} (mean)"

    def holds(self, ci_low: float, ci_high: float, control: float) -> bool:
        """Whether the interval's bound nearest the threshold and the control's mean both pass."""
        bound = ci_low if self.direction == "at least" else ci_high
        return _passes(bound, self.direction, self.threshold) and _passes(
            control, self.control_direction, self.control_threshold
        )


def _read() -> dict[str, Claim]:
    text = resources.files("unifylens.evidence").joinpath("ledger.toml").read_text(encoding="utf-8")
    return {name: Claim(id=name, **entry) for name, entry in tomllib.loads(text).items()}


CLAIMS: dict[str, Claim] = _read()
"""By ID, in the order of the README's table."""


def claim(claim_id: str) -> Claim:
    """The claim of an ID. Raises ValueError for an unknown one, with the nearest."""
    if claim_id in CLAIMS:
        return CLAIMS[claim_id]
    near = difflib.get_close_matches(str(claim_id), CLAIMS, n=1, cutoff=0.3)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"claim_id: got {claim_id!r}; allowed: {', '.join(CLAIMS)}{hint}")


def _passes(value: float, direction: Direction, threshold: float) -> bool:
    return bool(value >= threshold if direction == "at least" else value <= threshold)
