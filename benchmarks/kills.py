"""Sweeps killed while they save, and runs damaged on disk: `python -m benchmarks.kills`.

A sweep is killed again and again: before a random one of its file operations (every open, rename, removal and change
of rights in its store is one), at a random moment, and while a second process trains the same sweep in the same store.
After each kill every run in the store must be intact and bit by bit what an uninterrupted sweep gives, and none that
was there may be gone. Then worker processes of loky and dask are killed. Then runs and interrupted stacks are damaged:
none may be used.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import joblib
import torch
from tqdm.auto import tqdm

import unifylens as ul
from benchmarks import common
from unifylens.training import progress, run, store, trainer
from unifylens.training import workers as pool

SEEDS = 4
OPERATIONS = 140
"""About as many as a whole sweep has; a kill that comes later finds it finished."""

MOST_SECONDS = 60.0
"""For one process; one that takes longer counts as stuck."""


def experiment(seed: int = 0) -> ul.Experiment:
    """One that trains in a fraction of a second."""
    return ul.Experiment(
        world=ul.WorldConfig(n_subjects=12, n_relations=2, n_objects=3),
        corpus=ul.CorpusConfig(parallel=0.5),
        model=ul.ModelConfig(d_model=16, n_layers=1, n_heads=2, d_mlp=32),
        train=ul.TrainConfig(
            steps=12, batch_size=16, warmup=2, n_evaluations=2, n_checkpoints=2, eval_facts=8, lr=5e-3
        ),
        seed=seed,
    )


# --- processes that are killed ---------------------------------------------------------------------------------------


def train(home: Path, die_at: int | None, save_often: bool) -> None:
    """Train the sweep in a process that kills itself before its `die_at`-th file operation in the store."""
    os.environ["UNIFYLENS_HOME"] = str(home)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    trainer.SECONDS_BETWEEN_SAVES = 0.0 if save_often else 60.0
    left = iter(range(die_at or sys.maxsize, 0, -1))

    def listen(event: str, arguments: tuple) -> None:
        if event in OPERATION and isinstance(arguments[0], (str, os.PathLike)) and str(home) in str(arguments[0]):
            if next(left) == 1:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(listen)
    ul.sweep(experiment(), over={"seed": range(SEEDS)}, stack_size=1, progress=False)


OPERATION = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.scandir")


def start(home: Path, die_at: int | None = None, save_often: bool = False) -> BaseProcess:
    """From a server that has everything imported, so that a process starts in no time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["unifylens.training.sweeps", "pandas", "pyarrow.parquet"])
    process = context.Process(target=train, args=(home, die_at, save_often), daemon=True)
    process.start()
    return process


def end(process: BaseProcess) -> bool:
    """Wait for a process; whether it had to be ended because it was stuck."""
    process.join(MOST_SECONDS)
    if stuck := process.exitcode is None:
        process.kill()
        process.join()
    return stuck


class Watch:
    """What the store of a sweep holds, compared with an uninterrupted one."""

    def __init__(self, reference: Path) -> None:
        self.expected = [content(home_run(reference, seed)) for seed in range(SEEDS)]
        self.counts: Counter[str] = Counter()

    def look(self, home: Path, there_before: set[int]) -> set[int]:
        """Seeds whose runs are there; those that are gone or are not what they should be are counted."""
        there = set()
        for seed in range(SEEDS):
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                stored = home_run(home, seed)
            self.counts["damaged"] += len(told)
            if stored is not None:
                there.add(seed)
                self.counts["mixed"] += not same(content(stored), self.expected[seed])
        self.counts["lost"] += len(there_before - there)
        return there


def home_run(home: Path, seed: int) -> run.Run | None:
    with at(home):
        return store.load(experiment(seed))


@contextmanager
def at(home: Path) -> Iterator[None]:
    """With another store."""
    before = os.environ.get("UNIFYLENS_HOME")
    os.environ["UNIFYLENS_HOME"] = str(home)
    try:
        yield
    finally:
        os.environ.pop("UNIFYLENS_HOME")
        if before is not None:
            os.environ["UNIFYLENS_HOME"] = before


def content(stored: run.Run | None) -> dict[str, Any]:
    """All that a run says."""
    if stored is None:
        return {}
    weights = {f"{step}/{name}": p for step in stored.steps for name, p in stored.parameters(step).items()}
    return {"history": stored.history, "diverged_at": stored.diverged_at, "seed": stored.experiment.seed, **weights}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Bit by bit."""
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name])
        if isinstance(value, torch.Tensor)
        else value.equals(other[name])
        if hasattr(value, "equals")
        else value == other[name]
        for name, value in one.items()
    )


def differs(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return not same(one, other)


def kill_sweeps(n_kills: int, folder: Path, rng: random.Random, bar: tqdm) -> dict[str, int]:
    """Kill sweeps, each until it is through; what the stores held."""
    reference = folder / "uninterrupted"
    end(start(reference))
    watch = Watch(reference)
    counts, kills, home = watch.counts, 0, None
    counts.update(dict.fromkeys(("kills", "pairs", "sweeps", "runs", "mixed", "lost", "damaged", "failed", "stuck"), 0))
    while kills < n_kills:
        if home is None:
            home, there, at_once = folder / f"sweep-{counts['sweeps']}", set(), 0
            counts["sweeps"] += 1
        way = ("operation", "moment", "pair")[(kills + at_once) % 3]
        save_often = rng.random() < 0.5
        die_at = None if way == "moment" else rng.randint(1, OPERATIONS)
        processes = [start(home, die_at, save_often)]
        if way == "pair":
            processes.append(start(home, None, save_often))
        if way == "moment":
            time.sleep(rng.uniform(0.0, 1.0))
            processes[0].kill()
        counts["stuck"] += sum(map(end, processes))
        codes = [process.exitcode for process in processes]
        died = codes.count(-signal.SIGKILL)
        counts["failed"] += sum(code not in (0, -signal.SIGKILL) for code in codes)
        counts["pairs"] += died > 0 and way == "pair"
        kills, at_once = kills + died, at_once + 1
        bar.update(died)
        there = watch.look(home, there)
        if way == "pair" and len(there) < SEEDS:
            counts["lost"] += SEEDS - len(there)
        if len(there) == SEEDS:
            counts["runs"] += SEEDS
            counts["left behind"] += left_behind(home)
            shutil.rmtree(home)
            home = None
    if home is not None:
        end(start(home))
        counts["runs"] += len(there := watch.look(home, there))
        counts["lost"] += SEEDS - len(there)
    return dict(counts) | {"kills": kills}


def left_behind(home: Path) -> int:
    """Entries of a store that are no runs, once another run is saved: an interrupted stack is none either."""
    with at(home):
        store.save(experiment(SEEDS), home_run(home, 0).history, {0: {"a": torch.zeros(1)}})
        keys = {store.folder_of(experiment(seed)).name for seed in range(SEEDS + 1)}
    return len({path.name for path in (home / "runs").iterdir()} - keys)


def kill_worker(backend: str, folder: Path) -> dict[str, Any]:
    """Kill one of two worker processes when the first run is saved; whether all runs arrived as they should."""
    reference, home, save, killed = folder / "by one", folder / backend, store.save, []
    with at(reference):
        expected = [content(one) for one in _swept()]

    def kill_one(*arguments: Any) -> run.Run:
        if not killed:
            killed.append(workers()[0])
            os.kill(killed[0], signal.SIGKILL)
        return save(*arguments)

    try:
        store.save = kill_one
        with at(home), _cluster(backend, folder) as workers, joblib.parallel_config(backend, **JOBS[backend]):
            runs = [content(one) for one in _swept()]
    finally:
        store.save = save
    return {"killed": len(killed), "runs": len(runs), "mixed": sum(map(differs, runs, expected))}


JOBS: dict[str, dict[str, int]] = {"loky": {"n_jobs": 2}, "dask": {}}


def _swept() -> ul.Sweep:
    return ul.sweep(experiment().replace(**{"train.steps": 60}), over={"seed": range(8)}, stack_size=1, progress=False)


@contextmanager
def _cluster(backend: str, folder: Path) -> Iterator[Callable[[], list[int]]]:
    """Gives the process numbers of its workers."""
    if backend == "loky":
        from joblib.externals.loky import get_reusable_executor, reusable_executor

        yield lambda: list(reusable_executor._executor._processes)
        get_reusable_executor().shutdown(kill_workers=True)
        return
    import dask
    import distributed

    options: dict[str, Any] = {"dashboard_address": ":0", "worker_dashboard_address": None, "silence_logs": 50}
    place = {"n_workers": 2, "threads_per_worker": 1, "local_directory": str(folder / "workers")}
    with (
        dask.config.set({"distributed.scheduler.work-stealing": False}),
        distributed.LocalCluster(**options, **place) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield lambda: list(client.run(os.getpid).values())


# --- damages ---------------------------------------------------------------------------------------------------------

Damage = Callable[[Path, Path, random.Random], str]
"""Damages something at a first place, with what is at a second one; gives what was done."""


def flip(place: Path, other: Path, rng: random.Random) -> str:
    path = place / rng.choice(run.FILES) if place.is_dir() else place
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"bit flipped in {_kind(path)}"


def flip_header(place: Path, other: Path, rng: random.Random) -> str:
    path = place / run.WEIGHTS if place.is_dir() else place
    data = bytearray(path.read_bytes())
    data[rng.randrange(8 + int.from_bytes(data[:8], "little"))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"bit flipped in the header of {_kind(path)}"


def cut(place: Path, other: Path, rng: random.Random) -> str:
    path = place / rng.choice(run.FILES) if place.is_dir() else place
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])
    return f"{_kind(path)} cut"


def lengthen(place: Path, other: Path, rng: random.Random) -> str:
    path = place / rng.choice(run.FILES) if place.is_dir() else place
    path.write_bytes(path.read_bytes() + rng.randbytes(rng.randint(1, 64)))
    return f"{_kind(path)} lengthened"


def retype(place: Path, other: Path, rng: random.Random) -> str:
    path = place / run.WEIGHTS if place.is_dir() else place
    path.write_bytes(path.read_bytes().replace(b'"F32"', rng.choice([b'"I32"', b'"U32"']), 1))
    return f"type changed in {_kind(path)}"


def remove(place: Path, other: Path, rng: random.Random) -> str:
    path = place / rng.choice(run.FILES)
    path.unlink()
    return f"{_kind(path)} removed"


def swap_files(place: Path, other: Path, rng: random.Random) -> str:
    names = rng.sample(run.FILES, rng.randint(1, 3))
    for name in names:
        swap(place / name, other / name, rng)
    return "files swapped between runs"


def swap(place: Path, other: Path, rng: random.Random) -> str:
    scratch = place.with_name("scratch")
    place.rename(scratch), other.rename(place), scratch.rename(other)
    return f"{_kind(place)} swapped" if place.is_file() else "runs swapped"


def copy_over(place: Path, other: Path, rng: random.Random) -> str:
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    shutil.copytree(other, place) if other.is_dir() else shutil.copy2(other, place)
    return "run copied over another" if place.is_dir() else "interrupted stack copied over another"


OF_RUNS: tuple[Damage, ...] = (flip, flip, flip_header, cut, lengthen, retype, remove, swap_files, swap, copy_over)
OF_STACKS: tuple[Damage, ...] = (flip, flip_header, cut, lengthen, retype, swap, copy_over)


def _kind(path: Path) -> str:
    return path.name if path.name in run.FILES else "an interrupted stack"


def damage_runs(n_damages: int, folder: Path, rng: random.Random, bar: tqdm) -> dict[str, Any]:
    """Damage runs and interrupted stacks, one at a time; how many were told, were harmless, or were used."""
    pristine, home = folder / "pristine", folder / "damaged"
    with at(pristine):
        runs = ul.sweep(experiment(), over={"seed": range(SEEDS)}, stack_size=1, progress=False)
        expected = [content(one) for one in runs]
        for seed in range(SEEDS):
            tensors = {"parameter/a": torch.randn(3, 4), "moment/a": torch.full((3, 4), float(seed))}
            progress.Progress([experiment(seed)]).save(tensors, {"step": seed, "records": [[]]})
        stacks = [progress.Progress([experiment(seed)]) for seed in range(SEEDS)]
        saved = [stack.load() for stack in stacks]
    counts: Counter[str] = Counter(damages=n_damages, told=0, harmless=0, used=0, failed=0)
    kinds: dict[str, Counter[str]] = {}
    for number in range(n_damages):
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(pristine, home)
        first, second = rng.sample(range(SEEDS), 2)
        of_run = number % 3 < 2
        with at(home), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            if of_run:
                held = home_run(home, first)
                places = [store.folder_of(experiment(seed)) for seed in (first, second)]
                kind = rng.choice(OF_RUNS)(*places, rng)
                outcome = judge(
                    [partial(content, held), lambda: content(home_run(home, first)) or None],  # noqa: B023
                    expected[first],
                    same,
                )
            else:
                places = [progress.Progress([experiment(seed)]).path for seed in (first, second)]
                kind = rng.choice(OF_STACKS)(*places, rng)
                outcome = judge(
                    [progress.Progress([experiment(first)]).load],
                    saved[first],
                    lambda one, other: one[1] == other[1] and same(one[0], other[0]),
                )
        if outcome == "told" and not told:
            outcome = "failed"
        counts[outcome] += 1
        kinds.setdefault(kind, Counter())[outcome] += 1
        bar.update()
    return dict(counts) | {"kinds": {kind: dict(kinds[kind]) for kind in sorted(kinds)}}


def judge(readers: list[Callable[[], Any]], expected: Any, equal: Callable[[Any, Any], bool]) -> str:
    """`told` if any reader gives nothing or an OSError; else `harmless` or `used`, by what they give."""
    outcome = "harmless"
    for read in readers:
        try:
            given = read()
        except OSError:
            given = None
        except Exception as error:
            print(f"failed: {type(error).__name__}: {error}", file=sys.stderr)
            return "failed"
        if given is None:
            outcome = "told"
        elif not equal(given, expected):
            return "used"
    return outcome


# --- the report ------------------------------------------------------------------------------------------------------


def report(results: dict[str, Any]) -> str:
    kills, damages = results["kills"], results["damages"]
    outcomes = ("told", "harmless", "used")
    rows = [[kind, *(str(of.get(name, 0)) for name in outcomes)] for kind, of in damages["kinds"].items()]
    workers = [
        f"- one of two {name} workers killed: "
        + (f"{of['runs']} runs, {of['mixed']} of them not as they should be" if "runs" in of else of["error"])
        for name, of in results["workers"].items()
    ]
    return "\n".join(
        [
            "# Sweeps killed while they save, and damaged runs",
            "",
            f"{results['date']}, {results['machine']['n_cores']} cores, {results['seconds']:.0f} s.",
            "",
            f"- {kills['kills']} kills in {kills['sweeps']} sweeps of {SEEDS}, {kills['pairs']} of them of one of two "
            f"processes on one store: {kills['runs']} runs, {kills['mixed']} not bit by bit those of an uninterrupted "
            f"sweep, {kills['lost']} lost, {kills['damaged']} damaged; {kills['failed']} processes failed, "
            f"{kills['stuck']} were stuck, {kills['left behind']} entries were left behind",
            *workers,
            f"- {damages['damages']} damages: {damages['told']} told, {damages['harmless']} changed nothing that is "
            f"read, {damages['used']} used, {damages['failed']} ended in another error",
            "",
            common.table(["damage", *outcomes], rows),
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=common.count, default=100, help="how many (100)")
    parser.add_argument("--damages", type=common.count, default=500, help="how many (500)")
    parser.add_argument("--seed", type=int, default=0, help="of what is killed when, and damaged where (0)")
    parser.add_argument("--output", type=Path, default=common.RESULTS, help="folder of the results")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    pool.worker_count = lambda: 2
    began, rng = time.monotonic(), random.Random(asked.seed)
    results: dict[str, Any] = {"date": date.today().isoformat(), "machine": common.machine("cpu"), "seed": asked.seed}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with tqdm(total=asked.kills, desc="killing", unit="kill") as bar:
            results["kills"] = kill_sweeps(asked.kills, folder, rng, bar)
        results["workers"] = {}
        for backend in JOBS:
            try:
                results["workers"][backend] = kill_worker(backend, folder)
            except ImportError as error:
                results["workers"][backend] = {"error": f"not tried: {error}"}
        with tqdm(total=asked.damages, desc="damaging", unit="damage") as bar:
            results["damages"] = damage_runs(asked.damages, folder, rng, bar)
    results["seconds"] = time.monotonic() - began
    text = report(results)
    common.replace_files(asked.output, "kills", results, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
