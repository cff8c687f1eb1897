"""What was found for each claim, as `claims.json` keeps it, and the README and a terminal show it."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from unifylens.environment import PROFILES, figures_dir, project_dir, published_dir, reported, write_atomic
from unifylens.evidence.ledger import CLAIMS, Claim, claim

README_START, README_END = "<!-- claims:start -->", "<!-- claims:end -->"


@dataclass(frozen=True, repr=False)
class Record:
    """What one run found for one claim, as it stands in `claims.json`."""

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
        effect = f"{CLAIMS[self.id].effect_name} {self.interval}"
        control = f"{self.control['name']} {self.control['value']:.2f}, needed {self.control['threshold']}"
        return f"{effect} over {self.seeds} seeds, needed {self.threshold}; control: {control}"

    @property
    def interval(self) -> str:
        """The effect and its interval, such as `0.94 [0.93, 0.95]`."""
        return _interval(self.effect, self.ci_low, self.ci_high)

    def check(self) -> "Record":
        """Return the record itself, having said what was found and needed if the claim does not hold.

        Raises:
            AssertionError: if it does not hold in a `reported` run; a scratch run prints the same.
        """
        expect(self.holds, f"{self!r}. The claim: {self.statement}")
        return self


def expect(condition: bool, sentence: str) -> None:
    """Assert what the text says of the settings it reports; a scratch run only prints that it is otherwise.

    Raises:
        AssertionError: with `sentence`, if `condition` is false in a run that is `unifylens.environment.reported`.
    """
    if condition:
        return
    if reported():
        raise AssertionError(sentence)
    print(f"scratch: not as with the reported settings: {sentence}")


def load_records(folder: Path | None = None) -> list[Record]:
    """Records in the folder's `claims.json` (default: `figures_dir()`), none if there is no such file.

    Raises:
        ValueError: if a record's claim is not among `CLAIMS`.
    """
    path = (folder or figures_dir()) / "claims.json"
    if not path.exists():
        return []
    records = [Record(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    for r in records:
        claim(r.id)
    return records


def save_records(records: Iterable[Record], folder: Path) -> None:
    """Put records in the folder's `claims.json`, in the ledger's order; those of other claims stay."""
    kept = {r.id: r for r in (*load_records(folder), *records)}
    entries = [asdict(kept[i]) for i in CLAIMS if i in kept]
    write_atomic(folder / "claims.json", json.dumps(entries, indent=2, ensure_ascii=False) + "\n")


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
                f"{CLAIMS[r.id].effect_name}: {r.interval}",
                f"{r.seeds} ({r.profile})",
                f"{c['name']}: {_interval(c['value'], c['ci_low'], c['ci_high'])}, needed {c['threshold']}",
                r.threshold,
                "yes" if r.holds else "**no**",
            )
        )
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def comparison(claim: Claim, shipped: Record | None, yours: Record | None, ran: bool) -> str:
    """One line: what the project ships for a claim, what your run found, and whether it holds.

    `ran` says whether the claim's notebook was run.
    """
    line = f"{claim.id:<11}  shipped {shipped.interval if shipped else 'nothing'}"
    if yours is None:
        return f"{line}, {f'yours NOT recorded by {claim.notebook}' if ran else 'not run'}"
    same_size = shipped and (shipped.profile, shipped.seeds) == (yours.profile, yours.seeds)
    size = "" if same_size else f" ({yours.seeds} seeds, {yours.profile})"
    return f"{line}, yours {yours.interval}{size}, {'holds' if yours.holds else 'does NOT hold'}"


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


def shipped_records() -> list[Record]:
    """Of every claim, in the ledger's order, what the project ships: from the `full` profile where that was run."""
    by_id = {r.id: r for size in PROFILES for r in load_records(published_dir(size))}
    return [by_id[i] for i in CLAIMS if i in by_id]


def update_readme() -> None:
    """Renew the claims' table in the project's README.md from the published records.

    Raises:
        ValueError: if the README lacks the block's two marks.
    """
    path = project_dir() / "README.md"
    write_atomic(path, readme_with(path.read_text(encoding="utf-8"), shipped_records()))


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"
