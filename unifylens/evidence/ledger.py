"""The claims, and the thresholds they were given before any run: `ledger.toml`, one entry a claim.

What was tried before `claims.json` kept every attempt stands in `attempts.toml`.
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

Direction = Literal["at least", "at most"]
Verdict = Literal["held", "held in part", "not held"]
ControlKind = Literal["seeds", "permuted"]

FIRST_RUN = "first run"


@dataclass(frozen=True)
class Claim:
    """What is claimed, what an experiment must show for it to hold, and what the project has recorded of it."""

    id: str
    statement: str
    notebook: str
    effect_name: str
    threshold: float
    direction: Direction
    control_name: str
    control_threshold: float | None = None
    control_direction: Direction | None = None
    control: ControlKind = "seeds"
    """`seeds`: a value for each, and the bound nearer to failing must pass `control_threshold`. `permuted`: draws of
    the effect under chance, and the effect must lie beyond their 97.5 % quantile (2.5 % for a claim "at most")."""
    within: tuple[float, float] | None = None
    """Values that the effect can have, to which its interval is cut."""
    control_within: tuple[float, float] | None = None
    verdict: Verdict = "held"
    """What the project has recorded. A run that finds otherwise disagrees, and the build fails."""
    seeds: int = 2
    """Behind that verdict. A run with fewer has wider intervals: of it the values themselves must agree, not bounds."""
    control_holds: bool = True
    """Whether the control passed in what was recorded."""
    range: str = ""
    """Where it holds, in a sentence, if `held in part`."""
    changed: str = FIRST_RUN
    """What the test as it stands changed since the attempt before, in a few words."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """Further numbers that were set before the run, by name."""
    dish: Mapping[str, Any] = field(default_factory=dict)
    """What it says of one dish drawn at random: `effect_name`, `threshold` and `direction`."""

    @property
    def needs(self) -> str:
        """The effect's threshold in words: which bound of the interval must pass it."""
        return f"{self.direction} {self.threshold:g} ({_bound(self.direction)} bound)"

    @property
    def control_needs(self) -> str:
        """The control's threshold in words."""
        if self.control == "permuted":
            return "above the 97.5 % quantile" if self.direction == "at least" else "below the 2.5 % quantile"
        return f"{self.control_direction} {self.control_threshold:g} ({_bound(self.control_direction)} bound)"

    def passes(self, low: float, high: float) -> bool:
        """Whether the bound of the effect's interval that is nearer to failing passes the threshold."""
        return _passes(low, high, self.direction, self.threshold)

    def passes_in_dish(self, effect: float) -> bool:
        """Whether a dish's effect passes. Raises ValueError where the ledger has no test of one dish."""
        if not self.dish:
            raise ValueError(f"{self.id} has no test of a single dish; allowed: claims with `dish` in the ledger")
        return _passes(effect, effect, self.dish["direction"], self.dish["threshold"])

    def control_passes(self, low: float, high: float) -> bool:
        """The same of the interval of a control with seeds."""
        return _passes(low, high, self.control_direction, self.control_threshold)

    def beyond_chance(self, effect: float, permuted: Float[ndarray, " draws"]) -> tuple[bool, float]:
        """Whether the effect lies beyond the quantile of a permuted control, and that quantile."""
        quantile = float(np.quantile(permuted, 0.975 if self.direction == "at least" else 0.025))
        return (effect > quantile if self.direction == "at least" else effect < quantile), quantile


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files("unifylens.evidence").joinpath(name).read_text(encoding="utf-8"))


CLAIMS: dict[str, Claim] = {name: Claim(id=name, **entry) for name, entry in _read("ledger.toml").items()}
"""By ID, in the order of the table of claims."""


def attempts_before(claim_id: str) -> list[dict[str, Any]]:
    """What was tried for a claim before `claims.json` kept attempts, the first one first."""
    return [entry | {"date": entry["date"].isoformat()} for entry in _read("attempts.toml").get(claim_id, [])]


def claim(claim_id: str) -> Claim:
    """The claim of an ID. Raises ValueError for an unknown one, with the nearest."""
    if claim_id in CLAIMS:
        return CLAIMS[claim_id]
    near = difflib.get_close_matches(str(claim_id), CLAIMS, n=1, cutoff=0.3)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"claim_id: got {claim_id!r}; allowed: {', '.join(CLAIMS)}{hint}")


def _bound(direction: Direction) -> str:
    return "lower" if direction == "at least" else "upper"


def _passes(low: float, high: float, direction: Direction, threshold: float) -> bool:
    return bool(low >= threshold if direction == "at least" else high <= threshold)
