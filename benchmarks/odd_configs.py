"""What odd settings do: `python -m benchmarks.odd_configs`.

Some settings of a small experiment, drawn at random, get values from a pool of extremes, limits,
wrong kinds and plain

nes. Each experiment must be refused in a sentence of this library that names the setting; or go through JSON with the
same key, be refused in words where it is too large, be built, and take two steps. Anything else is a fault.
"""

from __future__ import annotations

import argparse
import datetime
import math
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

import unifylens as ul
from benchmarks.common import RESULTS, count, machine, replace_files, table
from unifylens import hardware
from unifylens.arguments import shown
from unifylens.config import INTERVENTIONS, REAL_LANGUAGES, RELATIONS, TEMPLATES
from unifylens.training.cost import Member
from unifylens.training.plan import plan_stacks
from unifylens.training.trainer import _Stack
from unifylens.training.workers import Workers

N = 5000
MEMORY = 256 * 2**20
"""Bytes that are said to be free: what needs more must be refused in words."""
SECONDS = 120
"""One experiment that takes longer hangs."""
LIBRARY = str(Path(ul.__file__).parent)

BASE = ul.Experiment(
    world=ul.WorldConfig(n_subjects=12, n_relations=2, n_objects=3),
    corpus=ul.CorpusConfig(parallel=0.5),
    model=ul.ModelConfig(d_model=8, n_layers=2, n_heads=2, d_mlp=16),
    train=ul.TrainConfig(steps=2, batch_size=8, warmup=0, n_evaluations=2, n_checkpoints=1, eval_facts=8),
)

WRONG = (
    None, True, False, "", "1", b"1", "plain", "nan", 1j, (), [], {}, {1}, frozenset(), range(3), object(), int,
    math.sqrt,
    np.nan, np.inf, -np.inf, np.bool_(True), np.array([1, 2]), np.array([[0.5]]), np.str_("of"),
    np.datetime64("2020"),
    torch.tensor(True), torch.tensor([1.0]), pd.NA, pd.NaT, pd.Series([1, 2]), pd.DataFrame({"a": [1]}), BASE,
    BASE.corpus,
    datetime.date(2020, 1, 1), datetime.timedelta(1), "\ud800", "\x00", {"a": 1}, {1: 2}, [None], [[]], ["of", "of"],
)  # fmt: skip
"""Of no kind that most settings have."""
WHOLE = (0, 1, 2, 3, 4, 5, 7, 8, 12, 16, 24, 31, 64, 100, 1000, -1, -(10**9), 10**4, 10**5, 10**6, 10**7, 10**8,
10**9,
         2**31, 2**32 - 1, 2**32, 2**63, 10**30, 10**400, 10**5000, 2.0, 3.5, np.int8(3), np.int64(5),
         np.float64(4.0),
         torch.tensor(6), -0.0)  # fmt: skip
NUMBERS = (0, 1, 0.0, -0.0, 0.1, 0.25, 0.5, 0.9, 0.999, 1.0, 1 + 1e-12, 1 - 1e-16, 1e-3, 1e-6, 1e-12, 1e-300,
5e-324, 2.0, 10.0,
           1e3, 1e6, 1e12, 1e300, 1.7e308, -1e-12, -1.0, np.float32(0.1), np.float64(0.3), np.int64(1),
           torch.tensor(0.5))  # fmt: skip
TEXTS = (
    *TEMPLATES, "{subject} {relation} {object} end", "{relation} {subject} {object}", "{subject} {object}",
    "{object}",
    "<pad> {subject} <bos> {relation} <eos> {object}", "## {subject} {relation} ##x {object}",
    "{subject}\u2003{relation}\t{object}",
    "ä ß 語 {subject} 🙂 {relation} {object}", " ".join(f"w{i}" for i in range(300)) + TEMPLATES["plain"], "x" * 20_000,
    "{subject} {relation} {object} {other}", "{subject} {relation} \ud800 {object}",
    "a a a {subject} {relation} {object}",
)  # fmt: skip
TUPLES = {
    "syllables": [(1, 1, 1), (1, 2, 3), (6, 6, 6), (2, 2), (0, 1, 2), (7, 1, 1), [2, 1, 2], (2.0, 2, 2), {1, 2, 3}],
    "betas": [(0, 0), (0.9, 0.999), (0.0, 1 - 1e-16), (1.0, 0.9), [0.5, 0.5], (0.9,), (-0.0, 0.5), (np.nan, 0.9)],
}
PARTS = {
    "real": [
        None, {}, {"locales": ["en", "de"]}, {"locales": ["en", "xx"]}, {"locales": ["en", "../de"]},
        {"locales": {"en", "de"}},
        {"locales": ["de", "fr"], "relations": ["script"]}, {"locales": ["en", "de"], "max_letters": 1},
        {"locales": ["en", "de"], "max_countries": 1}, {"locales": ["en", "de"], "min_countries": 1000},
        {"sources": "x"},
        {"locales": REAL_LANGUAGES[:3], "romanised": True, "leaks": False, "relations": RELATIONS[:2]},
        {"locales": ["en", "de"], "relations": ["currency", "currency"]},
    ],
    "changes": [
        (), [{"step": 1, "corpus": {"parallel": 1}}], [{"step": 2, "corpus": {}}], [{"step": 1}], [{"step": 1.0,
        "corpus": {}}],
        [{"step": True, "corpus": {}}], [{"step": 1, "corpus": {"n_parallel": 5}}], [{"step": 1, "corpus": {}}] * 2,
        [{"step": 1, "corpus": {"parallel": 0.0, "home_bias": 1.0}}], ({"step": 1, "corpus": {"paralel": 1}},),
        {"step": 1},
    ],
}  # fmt: skip


def leaves() -> list[str]:
    """Names of all settings that hold values."""
    names = ul.Experiment.field_names()
    return [name for name in names if not any(other.startswith(f"{name}.") for other in names)]


def odd_value(name: str, draw: np.random.Generator, tame: bool) -> Any:
    """A value for a setting: `tame` ones are mostly allowed, others are extreme or of a wrong kind."""
    leaf = name.rpartition(".")[2]
    part, _, inner = name.partition(".")
    kinds = ul.Experiment.parts()
    field = kinds[part].model_fields[inner] if inner else ul.Experiment.model_fields[name]
    if not tame and draw.random() < 0.2:
        return _one(WRONG, draw)
    if name == "interventions":
        return [_intervention(draw) for _ in range(draw.integers(1, 4))]
    if name in PARTS:
        return _one(PARTS[name], draw)
    if leaf == "templates":
        return [_one(TEXTS, draw) for _ in range(draw.integers(1, 4))]
    if leaf in TUPLES:
        return _one(TUPLES[leaf], draw)
    inside = {field.annotation, *get_args(field.annotation)}
    for option in list(inside):
        inside |= set(get_args(option))
    words = [word for word in inside if isinstance(word, str)]
    if bool in inside:
        return bool(draw.integers(2))
    if words:
        return _one([*words, *words, None, "other", words[0].upper()], draw)
    plain = (
        WHOLE[: 15 if draw.random() < 0.6 else None]
        if int in inside
        else NUMBERS[: 10 if draw.random() < 0.6 else None]
    )
    return _one(plain, draw)


def _intervention(draw: np.random.Generator) -> dict[str, Any]:
    """One of the interventions, mostly with what it needs."""
    name = _one([*INTERVENTIONS], draw)
    values = {
        "share": _one((0, 0.0, 0.1, 0.5, 1, 1.0, 2, -0.0, True, "1"), draw),
        "balance": _one((0.0, 0.5, 1.0, 1e-300), draw),
        "rows": _one(((0,), (3, 1, 1), [2, 5], (), (-1,), (10**9,), 3, "03"), draw),
        "kind": _one(("subjects", "relations", "objects", "function_words", "verbs"), draw),
        "tokenizer": _one(
            ({"scheme": "character"}, {"scheme": "bpe", "vocab_size": 60}, {"scheme": "unigram"}, {}), draw
        ),
    }
    needed = INTERVENTIONS[name] if draw.random() < 0.9 else ("share", "balance")
    return {"name": name, **{key: values[key] for key in needed}}


def _one(options: Sequence[Any], draw: np.random.Generator) -> Any:
    return options[draw.integers(len(options))]


def odd_settings(number: int) -> dict[str, Any]:
    """The `number`-th odd experiment, as `replace` takes it: the same one every time."""
    draw = np.random.default_rng([17, number])
    names = draw.permutation(leaves())[: draw.integers(1, 5)].tolist()
    tame = draw.random() < 0.75
    settings = {name: odd_value(name, draw, tame) for name in names}
    if settings.get("tokenizer.scheme") in ("bpe", "unigram") and draw.random() < 0.8:
        settings["tokenizer.vocab_size"] = int(_one((1, 20, 60, 90, 150, 10**4, 10**6), draw))
    return settings


def outcome(settings: dict[str, Any]) -> tuple[str, str]:
    """What came of an experiment, `fault` among it, and the sentence with which it was refused or the traceback."""
    with warnings.catch_warnings(), _time_limit():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".* train one by one")  # what some shapes are told by design
        try:
            try:
                experiment = BASE.replace(**settings)
            except ValueError as error:
                return _judged("refused at once", error, [name.rpartition(".")[2] for name in settings])
            again = ul.Experiment.model_validate_json(experiment.model_dump_json())
            if again != experiment or again.key(2) != experiment.key(2) or hash(again) != hash(experiment):
                return "fault", f"another experiment after JSON: {again!r}"
            try:
                member = Member.of(experiment)
                plan_stacks(
                    [member], Workers(1, shared=True, streams=True, here=True, memory=hardware.free_bytes()), None
                )
                return _trained(experiment)
            except (ValueError, MemoryError) as error:
                kind = "too large" if isinstance(error, MemoryError) else "refused when built"
                return _judged(kind, error, [*_all_names(), *INTERVENTIONS])
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return "fault", "".join(traceback.format_exception(error))[-3000:]


def _trained(experiment: ul.Experiment) -> tuple[str, str]:
    stack = _Stack([experiment])
    stack.evaluate()
    for _ in range(min(2, experiment.train.steps)):
        stack.advance()
    stack.evaluate()
    stack.checkpoint()
    (result,) = stack.finish()
    return ("trained" if result.diverged_at is None else "trained, diverged"), ""


def _all_names() -> list[str]:
    return [name.rpartition(".")[2] for name in ul.Experiment.field_names()]


def _judged(kind: str, error: Exception, names: list[str]) -> tuple[str, str]:
    """A refusal is as it should be if the sentence is this library's, is no traceback, and names a setting."""
    *_, last = traceback.extract_tb(error.__traceback__)
    ours = last.filename.startswith(LIBRARY) and type(error) in (ValueError, MemoryError)
    text = str(error)
    if not ours:
        return "fault", "not our own sentence: " + "".join(traceback.format_exception(error))[-3000:]
    if not any(name in text for name in names) or len(text) > 4000:
        return "fault", f"names no setting: {text[:4000]}"
    return kind, text


@contextmanager
def _time_limit() -> Iterator[None]:
    """TimeoutError after `SECONDS`."""

    def over(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def little_memory() -> Iterator[None]:
    """While this lasts, `MEMORY` is free."""
    before = hardware.free_bytes
    hardware.free_bytes = lambda device=None: MEMORY
    try:
        yield
    finally:
        hardware.free_bytes = before


def report(results: dict[str, Any]) -> str:
    n = results["n"]
    rows = [[kind, str(number), f"{number / n:.1%}"] for kind, number in results["outcomes"].items()]
    return (
        f"# What {n:,} odd experiments come to\n\n"
        "One to four settings of a small experiment, drawn at random, get extreme, wrong or plain values. A fault is "
        "anything but a refusal in a sentence of this library that names a setting, or two steps of training. "
        f"Faults: {len(results['faults'])}.\n\n{table(['outcome', 'experiments', 'share'], rows)}\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=lambda text: count(text, 10**6), default=N, help="number of experiments")
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    outcomes, faults, examples = Counter(), [], {}
    with little_memory():
        for number in tqdm(range(given.first, given.first + given.n), desc="odd experiments", mininterval=5):
            settings = odd_settings(number)
            kind, text = outcome(settings)
            outcomes[kind] += 1
            if kind == "fault":
                faults.append({"number": number, "settings": shown(settings, 1000), "what": text})
            elif text:
                examples.setdefault(kind, text)
    results = {
        "n": given.n,
        "outcomes": {kind: outcomes[kind] for kind in sorted(outcomes, key=lambda kind: -outcomes[kind])},
        "examples": examples,
        "faults": faults,
        "machine": machine("cpu"),
    }
    replace_files(given.output, "odd_configs", results, report(results))
    print(report(results))
    return int(bool(faults))


if __name__ == "__main__":
    raise SystemExit(main())
