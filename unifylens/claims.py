"""The claims, the thresholds they were given before any run, and the record of what was found.

A notebook measures an effect and a control, calls `record(...)` and then `.check()`. The records are kept in
`figures/claims.json`; `python -m unifylens.claims` copies them into the README's table.
"""

import difflib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import stats

from unifylens.paths import figures_dir, profile, project_dir

Direction = Literal["at least", "at most"]

README_START, README_END = "<!-- claims:start -->", "<!-- claims:end -->"


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


# Thresholds are written before the run whose outcome they judge. A claim that misses its threshold is shown
# as not holding; it does not get another threshold.
CLAIMS: dict[str, Claim] = {
    claim.id: claim
    for claim in (
        Claim(
            id="C1",
            statement="A small Transformer that recalls every fact in the language it was learnt in fails on "
            "the same facts asked in another language.",
            notebook="01_the_dish",
            effect_name="recall minus transfer without parallel facts",
            threshold=0.85,
            direction="at least",
            control_name="the same gap before training",
            control_threshold=0.05,
            control_direction="at most",
        ),
        Claim(
            id="C2",
            statement="Whether facts become unified or separate is settled in an early phase; later training does "
            "not change which models are unified.",
            notebook="02_phases",
            effect_name="rank correlation over models of the score at the end of the phase with the final score",
            threshold=0.8,
            direction="at least",
            control_name="the same correlation for the score when the no-knowledge baseline is reached",
            control_threshold=0.5,
            control_direction="at most",
        ),
        Claim(
            id="B1",
            statement="Critical period, under a decaying learning rate: the same parallel facts give transfer when "
            "they come in the first half of training and much less in the second.",
            notebook="02_phases",
            effect_name="transfer with early minus transfer with late parallel facts",
            threshold=0.4,
            direction="at least",
            control_name="recall of the late parallel copies",
            control_threshold=0.95,
            control_direction="at least",
        ),
        Claim(
            id="C8",
            statement="Similarity of the same fact across languages, against different facts within a "
            "language, tells unified from separate models.",
            notebook="03_unification_score",
            effect_name="score of unified minus score of separate models",
            threshold=0.2,
            direction="at least",
            control_name="the same difference with pairs shuffled within their relation",
            control_threshold=0.1,
            control_direction="at most",
        ),
        Claim(
            id="C9",
            statement="Similarity heatmaps show a checkerboard where language dominates the representation, and "
            "lose it where facts are unified.",
            notebook="03_unification_score",
            effect_name="checkerboard contrast of separate minus that of unified models",
            threshold=0.15,
            direction="at least",
            control_name="the same difference between the models before training",
            control_threshold=0.05,
            control_direction="at most",
        ),
        Claim(
            id="C3",
            statement="Facts transfer only where their representations are unified.",
            notebook="04_unification_and_transfer",
            effect_name="transfer of unified minus transfer of separate models",
            threshold=0.5,
            direction="at least",
            control_name="the same difference with scores shuffled over models",
            control_threshold=0.1,
            control_direction="at most",
        ),
        Claim(
            id="C10",
            statement="The unification score predicts transfer, so it can choose among checkpoints and models.",
            notebook="04_unification_and_transfer",
            effect_name="rank correlation of final fact-specific score and transfer over models",
            threshold=0.6,
            direction="at least",
            control_name="the same correlation with transfer shuffled over models",
            control_threshold=0.2,
            control_direction="at most",
        ),
        Claim(
            id="B2-subject",
            statement="Causal: what unified models know of a subject after the first block works in a prompt of "
            "another language; in separate models it does not.",
            notebook="05_activation_patching",
            effect_name="right object in the target language after patching the subject's positions from another "
            "language's prompt, unified minus separate models",
            threshold=0.5,
            direction="at least",
            control_name="the same difference with due facts shuffled over pairs",
            control_threshold=0.1,
            control_direction="at most",
        ),
        Claim(
            id="B2",
            statement="Causal: shifting the last position from one language to the other changes the answer's "
            "language and keeps its object in unified models, and loses the object in separate ones.",
            notebook="06_language_subspace",
            effect_name="right object in the other language after a shift per relation, on facts never seen there, "
            "unified minus separate models",
            threshold=0.55,
            direction="at least",
            control_name="right object under random shifts of the same length, unified models",
            control_threshold=0.05,
            control_direction="at most",
        ),
        Claim(
            id="B2-transfer",
            statement="How often the language swap succeeds tracks how much a model transfers.",
            notebook="06_language_subspace",
            effect_name="rank correlation of swap success and transfer over models",
            threshold=0.9,
            direction="at least",
            control_name="the same correlation with transfer shuffled over models",
            control_threshold=0.2,
            control_direction="at most",
        ),
        Claim(
            id="C4",
            statement="Informativeness: the more facts tell about the language they are learnt in, at a fixed number "
            "of parallel facts, the less they transfer.",
            notebook="07_informativeness",
            effect_name="rank correlation of I(fact; language) and transfer over levels of exposure imbalance",
            threshold=-0.9,
            direction="at most",
            control_name="recall of the copies seen at home, at the highest information",
            control_threshold=0.95,
            control_direction="at least",
        ),
        Claim(
            id="C4-object",
            statement="Informativeness proper: with every copy seen equally often, facts transfer less where the "
            "objects of monolingual facts tell the language.",
            notebook="07_informativeness",
            effect_name="transfer without minus transfer with every monolingual object tied to a language",
            threshold=0.2,
            direction="at least",
            control_name="lower of the two recalls of copies away from home",
            control_threshold=0.98,
            control_direction="at least",
        ),
        Claim(
            id="C5",
            statement="Extractability: the more of a prompt gives the language away, the less facts transfer.",
            notebook="08_extractability",
            effect_name="rank correlation of the share of language-revealing prompt tokens and transfer over levels",
            threshold=-0.9,
            direction="at most",
            control_name="recall at the highest share of revealing tokens",
            control_threshold=0.95,
            control_direction="at least",
        ),
        Claim(
            id="C5-words",
            statement="On words made of letters and cut into pieces, facts transfer less the farther the languages' "
            "words are from each other.",
            notebook="09_tokenization",
            effect_name="rank correlation of lexical distance and transfer over derived languages",
            threshold=-0.9,
            direction="at most",
            control_name="lowest recall over the levels",
            control_threshold=0.95,
            control_direction="at least",
        ),
        Claim(
            id="C6",
            statement="Changing the data turns transfer up and down: at least three interventions raise it and one "
            "lowers it.",
            notebook="10_turning_transfer_up_and_down",
            effect_name="smallest change of transfer, in the direction foretold, among the named interventions",
            threshold=0.02,
            direction="at least",
            control_name="largest loss of recall among them",
            control_threshold=0.02,
            control_direction="at most",
        ),
        Claim(
            id="C7",
            statement="Changing the tokenization turns transfer up and down: at least three interventions raise it and "
            "one lowers it.",
            notebook="10_turning_transfer_up_and_down",
            effect_name="smallest change of transfer, in the direction foretold, among the named interventions",
            threshold=0.02,
            direction="at least",
            control_name="largest loss of recall among them",
            control_threshold=0.02,
            control_direction="at most",
        ),
        Claim(
            id="B3",
            statement="Phase diagram: the share of parallel facts at which half of the facts transfer rises with "
            "informativeness and with extractability.",
            notebook="11_phase_diagram",
            effect_name="parallel share at half transfer where both are high, over that where both are low (log2)",
            threshold=1.0,
            direction="at least",
            control_name="lowest recall over the diagram",
            control_threshold=0.95,
            control_direction="at least",
        ),
        Claim(
            id="B4",
            statement="The same forces act on real words: writing all names in Latin letters raises transfer; "
            "splitting the vocabulary by language, and answers that tell the language, lower it.",
            notebook="12_real_words",
            effect_name="smallest change of transfer, in the direction foretold, among the three",
            threshold=0.005,
            direction="at least",
            control_name="transfer at parallel 0.5 minus the majority answer's share, lowest of the relations where "
            "that share is under 0.3",
            control_threshold=0.2,
            control_direction="at least",
        ),
        Claim(
            id="C11",
            statement="In a language model that others trained (Gemma-3-270M), languages whose states of the same fact "
            "are more alike know more facts in common.",
            notebook="13_real_models",
            effect_name="rank correlation over pairs of languages of centred score and facts right in both, at the "
            "layer chosen on other facts",
            threshold=0.1,
            direction="at least",
            control_name="chance of as much with languages renamed, given script, shared names, rarity and the score "
            "of the same model untrained (partial Mantel's p)",
            control_threshold=0.05,
            control_direction="at most",
        ),
    )
}

SWAP_UNIFIED_AT_LEAST, SWAP_SEPARATE_AT_MOST = 0.7, 0.15
"""Language swaps that succeed (B2): lower bound for unified, upper bound for separate models."""

SEPARATE_BELOW, UNIFIED_ABOVE = 0.25, 0.45
"""Scores that count as separate and as unified representations (C3); between them a model counts as neither."""
SEPARATE_TRANSFER_AT_MOST = 0.4
"""Necessity (C3): no separate model transfers more than this."""
CHANCE_MARGIN = 0.03
"""Transfer within this of one over the number of objects counts as chance (C1)."""
TRANSFER_WITH_MANY_PARALLEL, RECALL_COMPLETE = 0.9, 0.98
"""What the models with the most parallel facts must reach (C1): mean transfer and mean recall."""


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


def record(
    claim_id: str,
    *,
    control: Sequence[float] | Float[np.ndarray, " runs"],
    seeds: Sequence[int],
    effect: Sequence[float] | Float[np.ndarray, " seeds"] | None = None,
    interval: tuple[float, float, float] | None = None,
) -> Record:
    """Judge a claim by its threshold and write the outcome to `figures/claims.json`.

    `effect` has one value for each seed; its mean gets a 95 % bootstrap interval, which is too short when
    there are only a few seeds. For a statistic over many models give `interval=bootstrap_statistic(...)`
    instead. `control` has one value for each repeat of the control.

    Raises:
        ValueError: if the claim is unknown, the control is missing, there are fewer than two seeds, or a
            value is not a finite number.
    """
    claim = _claim(claim_id)
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
        mean, low, high = _mean_interval(values)
    else:
        mean, low, high = (float(x) for x in interval)
        if not (np.isfinite([mean, low, high]).all() and low <= high):
            raise ValueError(
                f"interval of {claim_id}: got {interval}; allowed: finite (effect, low, high), low <= high"
            )
    control_mean, control_low, control_high = _mean_interval(_values(f"control of {claim_id}", control))
    found = Record(
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
    kept = {r.id: r for r in load_records()} | {claim.id: found}
    ordered = [asdict(kept[i]) for i in CLAIMS if i in kept]
    write_atomic(figures_dir() / "claims.json", json.dumps(ordered, indent=2, ensure_ascii=False) + "\n")
    return found


def bootstrap_statistic(
    fn: Callable[..., float],
    *arrays: Sequence[float] | Float[np.ndarray, "models ..."],
    groups: Sequence | None = None,
    seed: int = 0,
    n_resamples: int = 2000,
) -> tuple[float, float, float]:
    """Statistic `fn(*arrays)` over models with its 95 % percentile interval, for `record(interval=...)`.

    Rows (models) are drawn with replacement, the same rows from every array. Models that share something,
    such as a seed or a condition, are not independent: name it in `groups`, and whole groups are drawn.

    Raises:
        ValueError: if the arrays differ in length, there are fewer than two rows or groups, or the statistic is
            undefined on the data. Where it is undefined on more than a tenth of the resamples (few groups), the
            interval is nan, and `record` will not take it.
    """
    rows = [np.asarray(a) for a in arrays]
    lengths = [len(a) for a in rows]
    if not rows or len(set(lengths)) > 1 or lengths[0] < 2:
        raise ValueError(f"arrays: got lengths {lengths}; allowed: arrays of one length, two rows or more")
    labels = np.arange(lengths[0]) if groups is None else np.asarray(groups)
    if len(labels) != lengths[0]:
        raise ValueError(f"groups: got {len(labels)} labels; allowed: one for each of {lengths[0]} rows")
    members = [np.flatnonzero(labels == g) for g in np.unique(labels)]
    if len(members) < 2:
        raise ValueError(f"groups: got {len(members)} group; allowed: two or more")
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # a resample may be constant; what it gives is counted below
        value = float(fn(*rows))
        draws = np.empty(n_resamples)
        for k in range(n_resamples):
            index = np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])
            draws[k] = fn(*(a[index] for a in rows))
    if not np.isfinite(value):
        raise ValueError(f"statistic: got {value} on the data; allowed: a finite value")
    if np.mean(~np.isfinite(draws)) > 0.1:
        return value, float("nan"), float("nan")
    low, high = np.quantile(draws[np.isfinite(draws)], [0.025, 0.975])
    return value, float(low), float(high)


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
        _claim(r.id)
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


def write_atomic(path: Path, text: str) -> None:
    """Write a whole file or leave the old one as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _claim(claim_id: str) -> Claim:
    if claim_id in CLAIMS:
        return CLAIMS[claim_id]
    near = difflib.get_close_matches(str(claim_id), CLAIMS, n=1, cutoff=0.3)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"claim_id: got {claim_id!r}; allowed: {', '.join(CLAIMS)}{hint}")


def _values(name: str, values: Sequence[float] | np.ndarray | None) -> Float[np.ndarray, " n"]:
    array = np.atleast_1d(np.asarray([] if values is None else values, dtype=float))
    if array.ndim != 1 or len(array) < 2 or not np.isfinite(array).all():
        raise ValueError(f"{name}: got {values!r}; allowed: two or more finite numbers in one dimension")
    return array


def _mean_interval(values: Float[np.ndarray, " n"]) -> tuple[float, float, float]:
    """Mean and its 95 % bootstrap interval: BCa, or percentile where BCa is undefined."""
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return mean, mean, mean
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # an interval that could not be computed is not a number
            found = stats.bootstrap((values,), np.mean, method=method, rng=np.random.default_rng(0))
        low, high = map(float, found.confidence_interval)
        if np.isfinite([low, high]).all():
            break
    return mean, low, high


def _passes(value: float, direction: Direction, threshold: float) -> bool:
    return bool(value >= threshold if direction == "at least" else value <= threshold)


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    update_readme()
