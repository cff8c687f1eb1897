"""What bfloat16 does to what is found: `python -m benchmarks.precision`.

The same seeds are trained in float32 and with matrices multiplied in bfloat16, with no parallel facts and with many.
Recall minus transfer without parallel facts, and of unified minus separate models transfer and the unification score
(claim C8), are compared seed by seed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

import unifylens as ul

SEEDS = 4
UNIFIED, SEPARATE = 0.6, 0.0
LARGEST_CHANGE = 0.05
"""Written down before the run: an effect that moves by more, in either direction, is called changed."""


def effects(final: pd.DataFrame) -> pd.DataFrame:
    """What is compared, one row a precision and seed."""
    table = final.set_index(["corpus.parallel", "train.precision", "seed"])
    unified, separate = table.loc[UNIFIED], table.loc[SEPARATE]
    return pd.DataFrame(
        {
            "recall less transfer, nothing parallel": separate["recall"] - separate["transfer"],
            "transfer, unified less separate": unified["transfer"] - separate["transfer"],
            "unification, unified less separate (C8)": unified["unification"] - separate["unification"],
        }
    )


def interval(values: np.ndarray) -> dict[str, float]:
    """Mean and its 95 % interval (Student's t, over seeds)."""
    mean = float(values.mean())
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def compare(found: pd.DataFrame) -> list[dict]:
    """For each effect: both values, and their difference seed by seed."""
    rows = []
    for effect in found.columns:
        exact, rounded = (found.loc[precision, effect].to_numpy() for precision in ("float32", "bfloat16"))
        change = interval(rounded - exact)
        rows.append(
            {
                "effect": effect,
                "float32": interval(exact),
                "bfloat16": interval(rounded),
                "change": change,
                "changed": max(abs(change["low"]), abs(change["high"])) > LARGEST_CHANGE,
            }
        )
    return rows


def table(rows: list[dict]) -> str:
    """Markdown."""
    lines = ["| effect | float32 | bfloat16 | change [95 %] | changed |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [f"{row[n]['mean']:.3f} [{row[n]['low']:.3f}, {row[n]['high']:.3f}]" for n in ("float32", "bfloat16")]
        change = f"{row['change']['mean']:+.3f} [{row['change']['low']:+.3f}, {row['change']['high']:+.3f}]"
        lines.append(f"| {row['effect']} | {cells[0]} | {cells[1]} | {change} | {'yes' if row['changed'] else 'no'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    folder = parser.parse_args().output
    over = {
        "corpus.parallel": [SEPARATE, UNIFIED],
        "train.precision": ["float32", "bfloat16"],
        "seed": range(SEEDS),
    }
    runs = ul.sweep(ul.Experiment(), over)
    rows = compare(effects(runs.final))
    text = (
        f"# Effects in float32 and in bfloat16\n\nSeeds 0 to {SEEDS - 1}, mean [95 % interval, Student's t]; "
        f"an effect counts as changed if its interval reaches beyond ±{LARGEST_CHANGE}.\n\n{table(rows)}\n"
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "precision.md").write_text(text)
    (folder / "precision.json").write_text(json.dumps({"seeds": SEEDS, "rows": rows}, indent=1, default=float) + "\n")
    print(text)


if __name__ == "__main__":
    main()
