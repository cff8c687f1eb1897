"""What was found for each claim, as `claims.json` keeps it and the README shows it."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from unifylens.environment import figures_dir, project_dir, write_atomic
from unifylens.evidence.ledger import CLAIMS, claim

README_START, README_END = "<!-- claims:start -->", "<!-- claims:end -->"


@dataclass(frozen=True, repr=False)
class Record:
    """What one run found for one claim, as it stands in `figures/claims.json`."""

    id: str
    statement: str
    notebook: str
    profile: str
    effect: float
    ci_low: float
    ci_high: float
    seeds: int
    control: dict[str, float | str]
    threshold: str
    holds: bool

    def __repr__(self) -> str:
        return f"{self.id} {'holds' if self.holds else 'does NOT hold'}: {self._found()}"

    def _found(self) -> str:
        effect = f"{CLAIMS[self.id].effect_name} {_interval(self.effect, self.ci_low, self.ci_high)}"
        control = f"{self.control['name']} {self.control['value']:.2f}, needed {self.control['threshold']}"
        return f"{effect} over {self.seeds} seeds, needed {self.threshold}; control: {control}"

    def check(self) -> "Record":
        """Return the record itself if the claim holds.

        Raises:
            AssertionError: if it does not, saying what was found and what was needed.
        """
        if not self.holds:
            raise AssertionError(f"{self!r}. The claim: {self.statement}")
        return self


def load_records() -> list[Record]:
    """Records in `figures/claims.json`, none if there is no such file.

    Raises:
        ValueError: if a record's claim is not among `CLAIMS`.
    """
    path = figures_dir() / "claims.json"
    if not path.exists():
        return []
    records = [Record(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    for r in records:
        claim(r.id)
    return records


def claims_table(records: Iterable[Record]) -> str:
    """Markdown table of the records, as the README shows it."""
    rows = [
        ("ID", "Claim", "Effect [95 % interval]", "Seeds", "Control", "Threshold", "Holds"),
        ("---",) * 7,
    ]
    for r in records:
        c = r.control
        rows.append(
            (
                r.id,
                r.statement,
                f"{CLAIMS[r.id].effect_name}: {_interval(r.effect, r.ci_low, r.ci_high)}",
                f"{r.seeds} ({r.profile})",
                f"{c['name']}: {_interval(c['value'], c['ci_low'], c['ci_high'])}, needed {c['threshold']}",
                r.threshold,
                "yes" if r.holds else "**no**",
            )
        )
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def claims_text(records: Iterable[Record]) -> str:
    """The same table for a terminal: two lines for each claim."""
    return "\n".join(f"{r.id:<4} {'holds' if r.holds else 'NO':<6} {r.statement}\n{'':12}{r._found()}" for r in records)


def readme_with(readme: str, records: Iterable[Record]) -> str:
    """Text of the README with its block of claims renewed.

    Raises:
        ValueError: if the README lacks the block's two marks.
    """
    before, start, rest = readme.partition(README_START)
    _, end, after = rest.partition(README_END)
    if not (start and end):
        raise ValueError(f"README.md: needs the lines {README_START} and {README_END}, in this order")
    return f"{before}{start}\n{claims_table(records)}\n{end}{after}"


def update_readme() -> None:
    """Renew the claims' table in the project's README.md.

    Raises:
        ValueError: if the README lacks the block's two marks.
    """
    path = project_dir() / "README.md"
    write_atomic(path, readme_with(path.read_text(encoding="utf-8"), load_records()))


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"
