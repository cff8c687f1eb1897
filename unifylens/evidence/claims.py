"""Judge a claim: a notebook measures an effect and a control, calls `record(...)`, and then `.check()`.

Thresholds stand in the ledger (`ledger.toml`); records are kept in `claims.json` beside the figures, and
`python -m unifylens.evidence.claims` copies the published ones into the README's table.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from unifylens.environment import figures_dir, profile, reported
from unifylens.evidence import ledger
from unifylens.evidence.ledger import CLAIMS, Claim
from unifylens.evidence.records import (
    FEWER_SEEDS,
    Record,
    attempt,
    claims_table,
    expect,
    load_records,
    readme_with,
    save_how_far,
    save_records,
    shipped_records,
    update_readme,
)
from unifylens.measures.intervals import ANYWHERE, mean_interval, statistic_interval

__all__ = [
    "CLAIMS",
    "Claim",
    "Record",
    "claims_table",
    "expect",
    "how_far",
    "load_records",
    "readme_with",
    "record",
    "shipped_records",
    "statistic_interval",
    "update_readme",
]

LEAST_DRAWS = 200
"""Behind the quantile of a permuted control."""

SWAP_UNIFIED_AT_LEAST = CLAIMS["B2"].limits["unified_at_least"]
SWAP_SEPARATE_AT_MOST = CLAIMS["B2"].limits["separate_at_most"]
SEPARATE_BELOW = CLAIMS["C3"].limits["separate_below"]
UNIFIED_ABOVE = CLAIMS["C3"].limits["unified_above"]
SEPARATE_TRANSFER_AT_MOST = CLAIMS["C3"].limits["separate_transfer_at_most"]
CHANCE_MARGIN = CLAIMS["C1"].limits["chance_margin"]
TRANSFER_WITH_MANY_PARALLEL = CLAIMS["C1"].limits["transfer_with_many_parallel"]
RECALL_COMPLETE = CLAIMS["C1"].limits["recall_complete"]


def record(
    claim_id: str,
    *,
    seeds: Sequence[int],
    effect: Sequence[float] | Float[np.ndarray, " seeds"] | None = None,
    interval: tuple[float, float, float] | None = None,
    control: Sequence[float] | Float[np.ndarray, " runs"] | None = None,
    permuted: Sequence[float] | Float[np.ndarray, " draws"] | None = None,
    step: float = 0.0,
) -> Record:
    """Judge a claim by its threshold and write the outcome to `claims.json` in `unifylens.environment.figures_dir()`.

    A run that is not `unifylens.environment.reported` is told that it is scratch.
    `effect` has one value for each seed, and its mean gets the 95 % interval of `measures.mean_interval` (`step`: the
    least by which a seed could differ). For a statistic over many models give `interval=statistic_interval(...)`
    instead. The ledger says which kind of control a claim has: `control` has one value for each repeat, and both bounds
    of its interval must pass; `permuted` are draws of the effect under chance, and the effect must lie beyond them.

    Raises:
        ValueError: if the claim is unknown, the control is missing or of the other kind, there are fewer than two
            seeds or 200 permuted draws, or a value is not a finite number.
    """
    claim = ledger.claim(claim_id)
    seeds = [int(s) for s in seeds]
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds of {claim_id}: got {seeds}; allowed: two or more different seeds")
    if (effect is None) == (interval is None):
        raise ValueError(f"effect and interval of {claim_id}: give one of them, the other must be None")
    if effect is not None:
        values = _values(f"effect of {claim_id}", effect)
        if len(values) != len(seeds):
            raise ValueError(
                f"effect of {claim_id}: got {len(values)} values; allowed: one for each of {len(seeds)} seeds"
            )
        mean, low, high = mean_interval(values, claim.within or ANYWHERE, step)
    else:
        mean, low, high = (float(x) for x in interval)
        if not (np.isfinite([mean, low, high]).all() and low <= high):
            raise ValueError(
                f"interval of {claim_id}: got {interval}; allowed: finite (effect, low, high), low <= high"
            )
    checked = _control(claim, mean, control, permuted)
    passed = claim.passes(low, high) and checked["holds"]
    judgement = Record(
        id=claim.id,
        statement=claim.statement,
        notebook=claim.notebook,
        profile=profile(),
        effect=round(mean, 6),
        ci_low=round(low, 6),
        ci_high=round(high, 6),
        seeds=len(seeds),
        control=checked,
        threshold=claim.needs,
        verdict="not held" if not passed else "held in part" if claim.range else "held",
        range=claim.range if passed else "",
        values=[] if effect is None else _rounded(values),
    )
    today = datetime.now(UTC).date().isoformat()
    changed = FEWER_SEEDS if judgement.few else claim.changed
    judgement = replace(judgement, attempts=[attempt(judgement, changed, today)])
    folder = figures_dir()
    save_records([judgement], folder)
    if not reported():
        print(f"scratch: {claim.id} is judged by its threshold but not in the record; written to {folder}")
    return judgement


def _control(
    claim: Claim, effect: float, control: Sequence[float] | None, permuted: Sequence[float] | None
) -> dict[str, Any]:
    values, other = (control, permuted) if claim.control == "seeds" else (permuted, control)
    if other is not None:
        word = "control" if claim.control == "seeds" else "permuted"
        raise ValueError(f"control of {claim.id}: the ledger says {claim.control!r}; allowed: {word}=... alone")
    values = _values(f"control of {claim.id}", values)
    told = {"name": claim.control_name, "kind": claim.control, "needs": claim.control_needs}
    if claim.control == "permuted":
        if len(values) < LEAST_DRAWS:
            raise ValueError(f"permuted of {claim.id}: got {len(values)} draws; allowed: {LEAST_DRAWS} or more")
        holds, quantile = claim.beyond_chance(effect, values)
        return told | {"value": round(quantile, 6), "draws": len(values), "holds": holds}
    mean, low, high = mean_interval(values, claim.control_within or ANYWHERE)
    numbers = {"value": round(mean, 6), "ci_low": round(low, 6), "ci_high": round(high, 6), "values": _rounded(values)}
    return told | numbers | {"holds": claim.control_passes(low, high)}


def how_far(claim_id: str, passed: Sequence[bool] | Bool[np.ndarray, " dishes"], untestable: int = 0) -> None:
    """Keep in which of many dishes, drawn at random, a claim's test passed: the site's table shows their share.

    `untestable` of those that did not could not be asked. Raises ValueError for an unknown claim, no dishes, or more
    untestable ones than did not pass.
    """
    save_how_far(claim_id, int(np.sum(passed)), len(passed), untestable, figures_dir())


def _values(name: str, values: Sequence[float] | np.ndarray | None) -> Float[np.ndarray, " n"]:
    array = np.atleast_1d(np.asarray([] if values is None else values, dtype=float))
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all():
        raise ValueError(f"{name}: got {values!r}; allowed: two or more finite numbers in one dimension")
    return array


def _rounded(values: Float[np.ndarray, " n"]) -> list[float]:
    return [round(float(value), 6) for value in values]


if __name__ == "__main__":
    update_readme()
