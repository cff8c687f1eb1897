"""Judge a claim: a notebook measures an effect and a control, calls `record(...)`, and then `.check()`.

Thresholds stand in the ledger (`ledger.toml`); records are kept in `claims.json` beside the figures, and
`python -m unifylens.evidence.claims` copies the published ones into the README's table.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from unifylens.environment import figures_dir, profile, reported
from unifylens.evidence import ledger
from unifylens.evidence.ledger import CLAIMS, Claim
from unifylens.evidence.records import (
    Record,
    claims_table,
    expect,
    load_records,
    readme_with,
    save_records,
    shipped_records,
    update_readme,
)
from unifylens.measures.bootstrap import bootstrap_statistic, mean_interval

__all__ = [
    "CLAIMS",
    "Claim",
    "Record",
    "bootstrap_statistic",
    "claims_table",
    "expect",
    "load_records",
    "readme_with",
    "record",
    "shipped_records",
    "update_readme",
]

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
    control: Sequence[float] | Float[np.ndarray, " runs"],
    seeds: Sequence[int],
    effect: Sequence[float] | Float[np.ndarray, " seeds"] | None = None,
    interval: tuple[float, float, float] | None = None,
) -> Record:
    """Judge a claim by its threshold and write the outcome to `claims.json` in `unifylens.environment.figures_dir()`.

    A run that is not `unifylens.environment.reported` is told that it is scratch.
    `effect` has one value for each seed; its mean gets a 95 % bootstrap interval, which is too short when
    there are only a few seeds. For a statistic over many models give `interval=bootstrap_statistic(...)`
    instead. `control` has one value for each repeat of the control.

    Raises:
        ValueError: if the claim is unknown, the control is missing, there are fewer than two seeds, or a
            value is not a finite number.
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
        mean, low, high = mean_interval(values)
    else:
        mean, low, high = (float(x) for x in interval)
        if not (np.isfinite([mean, low, high]).all() and low <= high):
            raise ValueError(
                f"interval of {claim_id}: got {interval}; allowed: finite (effect, low, high), low <= high"
            )
    control_mean, control_low, control_high = mean_interval(_values(f"control of {claim_id}", control))
    judgement = Record(
        id=claim.id,
        statement=claim.statement,
        notebook=claim.notebook,
        profile=profile(),
        effect=round(mean, 6),
        ci_low=round(low, 6),
        ci_high=round(high, 6),
        seeds=len(seeds),
        control={
            "name": claim.control_name,
            "value": round(control_mean, 6),
            "ci_low": round(control_low, 6),
            "ci_high": round(control_high, 6),
            "threshold": claim.control_needs,
        },
        threshold=claim.needs,
        holds=claim.holds(low, high, control_mean),
    )
    folder = figures_dir()
    save_records([judgement], folder)
    if not reported():
        print(f"scratch: {claim.id} is judged by its threshold but not in the record; written to {folder}")
    return judgement


def _values(name: str, values: Sequence[float] | np.ndarray | None) -> Float[np.ndarray, " n"]:
    array = np.atleast_1d(np.asarray([] if values is None else values, dtype=float))
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all():
        raise ValueError(f"{name}: got {values!r}; allowed: two or more finite numbers in one dimension")
    return array


if __name__ == "__main__":
    update_readme()
