"""Runs on disk by content hash: train once, analyse many times. What is damaged is named, set aside and never used."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from unifylens import cards, environment
from unifylens.config import Experiment
from unifylens.training import disk, progress, run
from unifylens.training.run import EXPERIMENT, FILES, HISTORY, MANIFEST, WEIGHTS, Run, key_of


def folder_of(experiment: Experiment) -> Path:
    """Where the run of an experiment lies, or would lie."""
    return environment.home() / "runs" / key_of(experiment)


def refuse_unwritable() -> None:
    """Raise OSError, naming folder and remedy, if runs cannot be written in the store."""
    for folder in (environment.home() / "runs", progress.folder()):
        disk.refuse_unwritable(folder)


def save(
    experiment: Experiment,
    history: pd.DataFrame,
    checkpoints: dict[int, dict[str, Tensor]],
    diverged_at: int | None = None,
) -> Run:
    """Write a run at once or not at all; `checkpoints` are state dicts by step.

    An intact run that is there already, of another process, is kept and given back; anything else in its place is set
    aside. Raises OSError if it cannot be written.
    """
    target = folder_of(experiment)
    with disk.scratch_folder(target) as folder:
        flat = {f"{step}/{name}": p.contiguous() for step, ps in checkpoints.items() for name, p in ps.items()}
        disk.write_tensors(flat, folder / WEIGHTS)
        history.to_parquet(folder / HISTORY, index=False)
        (folder / EXPERIMENT).write_text(experiment.model_dump_json(indent=1), encoding="utf-8")
        manifest = json.dumps(run.manifest_of(folder, diverged_at), indent=1)
        (folder / MANIFEST).write_text(manifest, encoding="utf-8")
        for _ in range(_TRIES):
            if (there := load(experiment)) is not None:
                return there
            try:
                os.rename(folder, target)
                return Run(experiment, target)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise
    raise OSError(errno.EBUSY, f"{target} is replaced again and again by others")


def load(experiment: Experiment) -> Run | None:
    """The stored run of an experiment, or None. A damaged one is reported by name, set aside, and not used.

    Raises OSError, naming the folder, where the disk does not let it be read; then nothing is changed.
    """
    stored = Run(experiment, folder_of(experiment))
    for _ in range(_TRIES):
        seen = disk.identity(stored.folder)
        if seen is None or (problem := stored.problem()) is None:
            return None if seen is None else stored
        if aside := disk.set_aside(stored.folder, seen):
            warnings.warn(
                f"run {stored.folder.name} in {stored.folder.parent} is damaged ({problem}); it is now {aside.name} "
                "and not used",
                stacklevel=2,
            )
            return None
    raise OSError(errno.EBUSY, f"{stored.folder} is replaced again and again by others")


def experiment_of(key: str) -> Experiment | None:
    """The experiment of a stored run, by the run's key; its weights are not read. None if there is none, or damaged."""
    folder = environment.home() / "runs" / key
    try:
        if run.damage(folder, key, (HISTORY, EXPERIMENT)) is None:
            return Experiment.model_validate_json((folder / EXPERIMENT).read_bytes())
    except (OSError, ValueError):  # told when it is loaded
        pass
    return None


def forget_finished_stacks() -> None:
    """Remove the progress of stacks whose runs are all there: a process that ended in between has left it."""
    for keys in progress.stacks_under_way():
        if all(map(experiment_of, keys)):
            with suppress(OSError):
                (progress.folder() / progress.name_of(keys)).unlink()


def imposed_folder() -> Path:
    """Where histories are kept of models trained under a run's attention, which no experiment describes."""
    return environment.home() / "imposed"


def save_imposed(experiment: Experiment, step: int, reference: Experiment, history: pd.DataFrame) -> None:
    """Keep the history of a model trained under the attention of a reference's run after a step, whole or not at all.

    Raises OSError, with the remedy, if it cannot be written.
    """
    disk.refuse_unwritable(imposed_folder())
    with disk.scratch_folder(imposed_folder() / key_of(experiment)) as folder:
        history.to_parquet(folder / HISTORY, index=False)
        digest = hashlib.sha256((folder / HISTORY).read_bytes()).hexdigest()[:16]
        os.replace(
            folder / HISTORY, imposed_folder() / f"{_imposed_name(experiment, step, reference)}-{digest}.parquet"
        )


def load_imposed(experiment: Experiment, step: int, reference: Experiment) -> pd.DataFrame | None:
    """What `save_imposed` kept, or None. What is damaged is reported by name, set aside, and not used.

    Raises OSError, naming the file, where the disk does not let it be read.
    """
    for place in sorted(imposed_folder().glob(f"{_imposed_name(experiment, step, reference)}-*.parquet")):
        seen = disk.identity(place)
        try:
            content = place.read_bytes()
        except FileNotFoundError:  # cleared by another process
            continue
        except OSError as error:
            raise disk.unreadable(place, error) from error
        if place.stem.endswith(hashlib.sha256(content).hexdigest()[:16]):
            return pd.read_parquet(io.BytesIO(content))
        if seen and (aside := disk.set_aside(place, seen)):
            warnings.warn(f"{place} is damaged; it is now {aside.name} and not used", stacklevel=2)
    return None


def _imposed_name(experiment: Experiment, step: int, reference: Experiment) -> str:
    whose = "" if reference == experiment else f"-by-{key_of(reference)}"
    return f"{key_of(experiment)}{whose}-{int(step)}"


_TRIES = 100
"""Other processes may save and set aside the same run; each time one of them is done with it."""


# --- what is there -------------------------------------------------------------------------------------------


def runs() -> pd.DataFrame:
    """What the store holds: one row a run, interrupted stack or history under imposed attention, and all else.

    Columns: `key`; `differs`, the settings that are not the defaults, but the seed; `seed`; `steps`; `MB`; `modified`;
    `ours`, whether it was made here, as all that `clear` deletes; and `state`: `intact`, `interrupted`, `set aside`, or
    what else it is.
    Weights are not read for it: damage to them is found when a run is loaded. Raises OSError if a folder of the store
    cannot be read.
    """
    return _listing(_items())


def size() -> int:
    """Bytes that runs, interrupted stacks and histories under imposed attention take on disk."""
    return sum(item.bytes for item in _items() if item.ours)


def clear(
    which: str | Experiment | Run | Iterable[str | Experiment | Run] = (), *, everything: bool = False
) -> pd.DataFrame:
    """Delete runs: some by key, experiment or run (a sweep, the column `key` of `runs()`), or `everything`.

    Gives what was deleted, as `runs` lists it. An interrupted stack goes by its own key, or when all its experiments
    are named; a history under a run's attention goes with the run. What was not made here, or has other files beside
    it, is left alone, with `everything` too.
    Raises ValueError, before anything is deleted, for a key that is not in the store or must be left alone, for runs of
    another home or that this user may not delete, and unless exactly one of `which` and `everything` is given;
    OSError, which says what was deleted, if the disk refuses the rest.
    """
    if not isinstance(everything, bool):
        raise ValueError(f"everything={everything!r}; allowed: True or False.")
    if isinstance(which, (pd.DataFrame, Path)):
        raise ValueError(
            f"which is a {type(which).__name__}; allowed: keys, experiments and runs (of a table its `key`)."
        )
    named = [which] if isinstance(which, (str, Experiment, Run)) else list(which)
    if bool(named) == everything:
        raise ValueError("clear deletes what it is told: name runs by key or experiment, or say everything=True.")
    items = {item.key: item for item in _items()}
    chosen = [key for key, item in items.items() if item.ours] if everything else [_key_of(one) for one in named]
    for key in chosen:
        if key not in items:
            raise ValueError(f"{key!r} is not in {environment.home()}; `ul.store.runs()` lists what is.")
        if not items[key].ours:
            raise ValueError(
                f"{key!r} is left alone, {items[key].state}; it can be deleted by hand in {items[key].path.parent}."
            )
    together = set(chosen)
    chosen += [key for key, item in items.items() if item.stack and together.issuperset(item.stack)]
    chosen += [key for key, item in items.items() if item.reference in together and item.removable]
    deleted = [items[key] for key in dict.fromkeys(chosen)]
    if others := [item.key for item in deleted if not item.removable]:
        raise ValueError(
            f"{', '.join(map(repr, others))}: it is another user's, or its folder cannot be written. Nothing was "
            "deleted."
        )
    table = _listing(deleted)
    problems: dict[str, OSError] = {}
    for item in deleted:
        try:
            item.delete()
        except OSError as error:
            problems[item.key] = error
    if problems:
        told = "; ".join(f"{key}: {error.strerror or error}" for key, error in problems.items())
        gone = ", ".join(item.key for item in deleted if item.key not in problems) or "none"
        number = next(iter(problems.values())).errno or errno.EIO
        raise OSError(number, f"not all could be deleted ({told}). Deleted were: {gone}.")
    return table


def _listing(items: Sequence[_Item]) -> pd.DataFrame:
    columns = ("key", "differs", "seed", "steps", "MB", "modified", "ours", "state")
    rows = [row for item in items if (row := item.row())]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype({"seed": "Int64", "steps": "Int64"})


def _key_of(one: str | Experiment | Run) -> str:
    if isinstance(one, Run):
        if one.folder.parent.resolve() != (environment.home() / "runs").resolve():
            raise ValueError(f"run {one.folder} is not in {environment.home()}, of which `clear` deletes.")
        return one.folder.name
    if isinstance(one, Experiment):
        return key_of(one)
    if isinstance(one, str):
        return one
    raise ValueError(f"which holds a {type(one).__name__}; allowed: keys, experiments and runs.")


@dataclass(frozen=True)
class _Item:
    """A run, an interrupted stack, or something else in the store's folders."""

    path: Path
    state: str
    ours: bool = False
    """Whether it may be deleted."""
    experiment: Experiment | None = None
    """Of a run."""
    stack: tuple[str, ...] = ()
    """Keys of an interrupted stack's experiments."""
    reference: str | None = None
    """Key of the run whose attention a history was trained under."""

    @property
    def is_file(self) -> bool:
        return bool(self.stack) or self.reference is not None

    @property
    def key(self) -> str:
        return self.path.stem if self.stack and self.path.suffix == ".safetensors" else self.path.name

    @property
    def bytes(self) -> int:
        files = [self.path] if self.is_file else [self.path / name for name in FILES]
        if not self.ours:
            return 0
        with suppress(OSError):  # cleared by another process
            return sum(file.stat().st_size for file in files if file.is_file())
        return 0

    def row(self) -> dict[str, Any] | None:
        """In the table of what is there; None if it is gone by now."""
        if (seen := disk.identity(self.path)) is None:
            return None
        differs = f"{len(self.stack)} experiments" if self.stack else ""
        if self.experiment is not None:
            settings = self.experiment.differences()
            settings.pop("seed", None)
            differs = cards.settings(settings)
        return {
            "key": self.key,
            "differs": differs,
            "seed": None if self.experiment is None else self.experiment.seed,
            "steps": None if self.experiment is None else self.experiment.train.steps,
            "MB": self.bytes / 1e6,
            "modified": pd.Timestamp.fromtimestamp(seen[2] / 1e9),
            "ours": self.ours,
            "state": self.state,
        }

    @property
    def removable(self) -> bool:
        """Whether this user has the rights to delete it."""
        with suppress(FileNotFoundError, NotADirectoryError):  # cleared by another process
            return disk.may_remove(self.path)
        return True

    def delete(self) -> None:
        """Remove the files, then the folder; under another name first, so that no half of a run is ever found.

        Raises OSError if it cannot be removed; then it is back at its place.
        """
        if self.is_file:
            self.path.unlink(missing_ok=True)
            return
        scratch = disk.scratch_name(self.path)
        try:
            self.path.rename(scratch)
        except FileNotFoundError:
            return
        disk.remove_folder(scratch)
        if (seen := disk.identity(scratch)) is None:
            return
        place = self.path
        try:
            scratch.rename(place)
        except OSError:  # somebody put a run there meanwhile
            place = disk.set_aside(scratch, seen, self.path.name) or scratch
        raise OSError(errno.EBUSY, f"{place} holds something that cannot be deleted")


def _items() -> list[_Item]:
    """Everything in the store's folders, but what is being written (its name begins with a dot)."""
    items = [_run_at(path) for path in _listed(environment.home() / "runs")]
    for path in _listed(progress.folder()):
        keys = [] if path.is_symlink() else progress.stack_of(path)
        place, _, aside = path.name.partition(disk.SET_ASIDE)
        if place == progress.name_of(keys):
            items.append(_Item(path, f"{'set aside: ' if aside else ''}interrupted", True, stack=tuple(keys)))
        else:
            items.append(_Item(path, "set aside: damaged" if aside else "no stack"))
    for path in _listed(imposed_folder()):
        place, _, aside = path.name.partition(disk.SET_ASIDE)
        name = _IMPOSED.fullmatch(place)
        ours = name is not None and path.is_file() and not path.is_symlink()
        state = f"{'set aside: ' * bool(aside)}history under imposed attention" if ours else "no history"
        items.append(_Item(path, state, ours, reference=name["key"] if ours else None))
    return items


_IMPOSED = re.compile(r"(?P<key>[0-9a-f]+)(-by-[0-9a-f]+)?-\d+-[0-9a-f]{16}\.parquet")


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder / name for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise disk.unreadable(folder, error) from error


def _run_at(path: Path) -> _Item:
    """What lies at a run's place, or was set aside: ours where an experiment says so whose key is the folder's name."""
    key, _, aside = path.name.partition(disk.SET_ASIDE)
    item = _named(path, key)
    return replace(item, state=f"set aside: {item.state}") if aside else item


def _named(path: Path, key: str) -> _Item:
    """What is at a path, by the key in its name."""
    if path.is_symlink() or not path.is_dir():
        return _Item(path, "no run: a link or a file")
    try:
        if not (path / EXPERIMENT).is_file():
            return _Item(path, f"no run: without {EXPERIMENT}")
        experiment = Experiment.model_validate_json((path / EXPERIMENT).read_text(encoding="utf-8"))
        formats = {experiment.key(number): number for number in range(1, run.DATA_FORMAT + 1)}
        if key not in formats:
            return _Item(path, "no run: under the key of another experiment")
        files = {file.name for file in path.iterdir() if file.is_file() and not file.is_symlink()}
        if others := sorted({file.name for file in path.iterdir()} - (files & set(FILES))):
            return _Item(path, f"holds more than a run: {', '.join(others)}", experiment=experiment)
        old, problem = formats[key] < run.DATA_FORMAT, run.damage(path, key, (HISTORY, EXPERIMENT))
    except (OSError, ValueError) as error:
        return _Item(path, f"no run: cannot be read ({type(error).__name__})")
    state = f"damaged: {problem}" if problem else "of an older format" if old else "intact"
    return _Item(path, state, True, experiment)
