"""What was found for each claim, as `claims.json` keeps it, and the README, the site and a terminal show it."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from unifylens.environment import PROFILES, figures_dir, project_dir, published_dir, reported, write_atomic
from unifylens.evidence.ledger import CLAIMS, Claim, Verdict, attempts_before, claim
from unifylens.measures.intervals import share_interval

HOW_FAR = "how_far.json"
FEWER_SEEDS = "the same test with fewer seeds than are recorded"
"""What changed in an attempt that only has fewer seeds."""
README_START, README_END = "<!-- claims:start -->", "<!-- claims:end -->"


@dataclass(frozen=True, repr=False)
class Record:
    """What one run found for one claim, and all that was found before, as it stands in `claims.json`."""

    id: str
    statement: str
    notebook: str
    profile: str
    effect: float
    ci_low: float
    ci_high: float
    seeds: int
    control: dict[str, Any]
    """`name`, `kind`, `value`, what it `needs` and whether it `holds`; `ci_low`, `ci_high` and `values` where it has
    seeds, the number of `draws` where it is permuted, whose `value` is their quantile."""
    threshold: str
    verdict: Verdict
    range: str = ""
    how_far: dict[str, float] | None = None
    """Share of randomly drawn dishes in which the claim's test passes (`share`, `ci_low`, `ci_high`, `dishes`); in how
    many of them it could not be asked (`untestable`)."""
    values: list[float] = field(default_factory=list)
    """The effect seed by seed, where it is their mean; a control with seeds has its own `values`."""
    attempts: list[dict[str, Any]] = field(default_factory=list)
    """Outcomes, the first one first: `date`, what `changed`, `effect`, `ci_low`, `ci_high`, `control`, `verdict`,
    `seeds`, `profile`."""

    def __repr__(self) -> str:
        recorded, text = CLAIMS[self.id], f"{self.id} {self.verdict if self.holds else 'NOT held'}: {self._found()}"
        if self.few and not self.holds and recorded.verdict != "not held":
            text += f" (recorded with {recorded.seeds} seeds, which make a shorter interval: {recorded.verdict})"
        return text

    def _found(self) -> str:
        interval, bounds = self.interval, {round(self.ci_low, 2), round(self.ci_high, 2)}
        if not self.holds and round(CLAIMS[self.id].threshold, 2) in bounds:  # which side it is on must show
            interval = f"{self.effect:.3f} [{self.ci_low:.3f}, {self.ci_high:.3f}]"
        effect = f"{CLAIMS[self.id].effect_name} {interval}"
        control = f"{self.control['name']} {control_interval(self.control)}, needed {self.control['needs']}"
        return f"{effect} over {self.seeds} seeds, needed {self.threshold}; control: {control}"

    @property
    def holds(self) -> bool:
        """Whether the claim's test passed, in whatever range it was made."""
        return self.verdict != "not held"

    @property
    def interval(self) -> str:
        """The effect and its interval, such as `0.94 [0.93, 0.95]`."""
        return _interval(self.effect, self.ci_low, self.ci_high)

    @property
    def few(self) -> bool:
        """Whether it has fewer seeds than are behind what the project has recorded."""
        return self.seeds < CLAIMS[self.id].seeds

    @property
    def current(self) -> bool:
        """Whether its last attempt is of the test as it stands now, not of an earlier one."""
        return self.attempts[-1]["changed"] in (CLAIMS[self.id].changed, FEWER_SEEDS)

    @property
    def agrees(self) -> bool:
        """Whether the run agrees with what the project has recorded (the ledger's `verdict`).

        Of a run with fewer seeds than are behind a claim that held, the values themselves must pass, as its intervals
        are wider than thresholds were set for. A control that the record says passes must pass in any case.
        """
        recorded, control = CLAIMS[self.id], self.control
        control_holds = control["holds"]
        if self.few and control["kind"] == "seeds":
            control_holds = recorded.control_passes(control["value"], control["value"])
        if recorded.verdict == "not held":
            return not self.holds and (control_holds or not recorded.control_holds)
        return control_holds and (recorded.passes(self.effect, self.effect) if self.few else self.holds)

    def check(self) -> "Record":
        """Return the record itself, having said what was found and needed if that is not what the project recorded.

        A claim that is recorded as not held passes where it is not held.

        Raises:
            AssertionError: if it disagrees in a `reported` run; a scratch run prints the same.
        """
        expect(self.agrees, f"{self!r}. Recorded: {CLAIMS[self.id].verdict}. The claim: {self.statement}")
        return self

    def after(self, earlier: list[dict[str, Any]]) -> "Record":
        """The record with its own attempts behind earlier ones; what was found before is no new attempt.

        Nor is it one when more seeds than it has stand behind the claim by now.
        """
        known = {_outcome(attempt) for attempt in earlier}
        known |= {(FEWER_SEEDS, *found) for changed, *found in known if changed == CLAIMS[self.id].changed}
        return replace(self, attempts=[*earlier, *(a for a in self.attempts if _outcome(a) not in known)])


def _outcome(attempt: dict[str, Any]) -> tuple:
    """What tells attempts apart: what was run, and what was found, as it is printed."""
    numbers = (f"{attempt[name]:.2f}" for name in ("effect", "ci_low", "ci_high"))
    return (*(attempt[name] for name in ("changed", "profile", "seeds", "verdict")), *numbers)


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

    Files of versions that kept no attempts are read as well. What is measured of how far claims hold lies beside it.

    Raises:
        ValueError: if a record's claim is not among `CLAIMS`.
    """
    folder = folder or figures_dir()
    far = _read(folder / HOW_FAR, {})
    records = []
    for entry in _read(folder / "claims.json", []):
        claim(entry["id"])
        record = _converted(entry) if "verdict" not in entry else Record(**entry)
        records.append(replace(record, how_far=far.get(record.id, record.how_far)))
    return records


def save_records(records: Iterable[Record], folder: Path) -> None:
    """Put records in the folder's `claims.json`, in the ledger's order; those of other claims stay.

    What was found before stays among a record's attempts, and how far its claim holds with it.
    """
    kept = {r.id: r for r in load_records(folder)}
    for r in records:
        old = kept.get(r.id)
        r = r.after(old.attempts if old else attempts_before(r.id))
        kept[r.id] = replace(r, how_far=r.how_far or old.how_far) if old else r
    entries = [asdict(kept[i]) for i in CLAIMS if i in kept]
    write_atomic(folder / "claims.json", json.dumps(entries, indent=2, ensure_ascii=False) + "\n")


def save_how_far(claim_id: str, passed: int, dishes: int, untestable: int, folder: Path) -> None:
    """Keep in how many randomly drawn dishes a claim's test passed, beside the folder's `claims.json`.

    Raises ValueError for an unknown claim, no dishes, or more of them than there are.
    """
    share, low, high = share_interval(passed, dishes)
    if not 0 <= untestable <= dishes - passed:
        raise ValueError(
            f"untestable is {untestable} of {dishes}, {passed} of which passed; allowed: those that did not"
        )
    found = {"share": share, "ci_low": low, "ci_high": high, "dishes": dishes, "untestable": untestable}
    far = _read(folder / HOW_FAR, {}) | {claim(claim_id).id: found}
    write_atomic(folder / HOW_FAR, json.dumps(far, indent=2) + "\n")


def _read(path: Path, otherwise: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else otherwise


def _converted(entry: dict[str, Any]) -> Record:
    """A record as it was kept before attempts were: judged as it was then; its own outcome is the last attempt."""
    entry = dict(entry)
    entry["verdict"] = "held" if entry.pop("holds") else "not held"
    old = entry["control"]
    needs = old["threshold"]
    entry["control"] = {k: old[k] for k in ("name", "value", "ci_low", "ci_high")}
    entry["control"] |= {"kind": "seeds", "needs": needs, "holds": _mean_passed(needs, old["value"])}
    record = Record(**entry)
    before, own = attempts_before(record.id), attempt(record, "judged as before attempts were kept")
    known = _outcome(own)[1:] in {_outcome(a)[1:] for a in before}
    return replace(record, attempts=before if known else [*before, own])


def _mean_passed(needs: str, value: float) -> bool:
    direction, threshold = needs.removesuffix(" (mean)").rsplit(" ", 1)
    return value >= float(threshold) if direction == "at least" else value <= float(threshold)


def attempt(record: Record, changed: str, date: str = "") -> dict[str, Any]:
    """A record's outcome as one of its attempts."""
    numbers = {name: getattr(record, name) for name in ("effect", "ci_low", "ci_high")}
    rest = {"verdict": record.verdict, "seeds": record.seeds, "profile": record.profile}
    return {"date": date, "changed": changed, **numbers, "control": record.control["value"], **rest}


def claims_table(records: Iterable[Record]) -> str:
    """Markdown table of the records with all that was found, as the site shows it."""
    rows = [
        ("ID", "Claim", "Effect [95 % interval]", "Seeds", "How far", "Verdict", "Attempts", "Notebook"),
        ("---",) * 8,
    ]
    for r in records:
        rows.append(
            (
                r.id,
                r.statement,
                f"{CLAIMS[r.id].effect_name}: {r.interval}",
                f"{r.seeds} ({r.profile})",
                _how_far(r.how_far),
                "**not held**" if not r.holds else f"{r.verdict}: {r.range}" if r.range else r.verdict,
                str(len(r.attempts)),
                f"[{r.notebook[:2]}](notebooks/{r.notebook}.ipynb)",
            )
        )
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def claims_in_short(records: Iterable[Record]) -> str:
    """Markdown table of the records as the README shows it: effects by notebook, and verdicts but *held*."""
    by_notebook: dict[str, list[str]] = {}
    for r in records:
        verdict = {"held": "", "not held": " **not held**"}.get(r.verdict, f" ({r.verdict})")
        by_notebook.setdefault(r.notebook, []).append(f"{r.id} {r.interval}{verdict}")
    rows = [f"| [{name}](notebooks/{name}.ipynb) | {'; '.join(found)} |" for name, found in by_notebook.items()]
    return "\n".join(["| Notebook | Claims |", "| --- | --- |", *sorted(rows)])


def comparison(claim: Claim, shipped: Record | None, yours: Record | None, ran: bool) -> str:
    """One line: what the project ships for a claim, what your run found, and whether it agrees with what is recorded.

    `ran` says whether the claim's notebook was run.
    """
    line = f"{claim.id:<11}  shipped {f'{shipped.interval} {shipped.verdict}' if shipped else 'nothing'}"
    if yours is None:
        return f"{line}, {f'yours NOT recorded by {claim.notebook}' if ran else 'not run'}"
    same_size = shipped and (shipped.profile, shipped.seeds) == (yours.profile, yours.seeds)
    size = "" if same_size else f" ({yours.seeds} seeds, {yours.profile})"
    return f"{line}, yours {yours.interval} {yours.verdict}{size}: {'agrees' if yours.agrees else 'DISAGREES'}"


def readme_with(readme: str, records: Iterable[Record]) -> str:
    """Text of the README with its block of claims renewed.

    Raises:
        ValueError: if the README lacks the block's two marks.
    """
    before, start, rest = readme.partition(README_START)
    _, end, after = rest.partition(README_END)
    if not (start and end):
        raise ValueError(f"README.md: needs the lines {README_START} and {README_END}, in this order")
    return f"{before}{start}\n{claims_in_short(records)}\n{end}{after}"


def shipped_records() -> list[Record]:
    """Of every claim, in the ledger's order, what is shipped: of the `full` profile where its test was run there.

    Its attempts are those of both profiles; how far it holds, too, is of the `full` one where that was measured.
    """
    far = _read(published_dir("full") / HOW_FAR, {})
    by_id: dict[str, Record] = {}
    for r in (r for size in PROFILES for r in load_records(published_dir(size))):
        if r.id not in by_id:
            by_id[r.id] = r
        elif r.current:
            by_id[r.id] = r.after(by_id[r.id].attempts)
        else:
            by_id[r.id] = by_id[r.id].after(r.attempts)
    return [replace(by_id[i], how_far=far.get(i, by_id[i].how_far)) for i in CLAIMS if i in by_id]


def update_readme() -> None:
    """Renew the claims' table in the project's README.md from the published records.

    Raises:
        ValueError: if the README lacks the block's two marks.
    """
    path = project_dir() / "README.md"
    write_atomic(path, readme_with(path.read_text(encoding="utf-8"), shipped_records()))


def control_interval(control: dict[str, Any]) -> str:
    """A control's value with its interval, or the quantile that a permuted one is."""
    if control["kind"] == "permuted":
        return f"{control['value']:.2f}"
    return _interval(control["value"], control["ci_low"], control["ci_high"])


def _how_far(found: dict[str, float] | None) -> str:
    if not found:
        return ""
    share = f"{_interval(*(found[k] for k in ('share', 'ci_low', 'ci_high')))} of {found['dishes']}"
    return f"{share}; {found['untestable']} untestable" if found["untestable"] else share


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"
