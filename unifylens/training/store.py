"""Runs on disk by content hash: train once, analyse many times. A damaged run is named and never used."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unifylens import cards, environment
from unifylens.cards import Card
from unifylens.config import Experiment
from unifylens.corpus.corpus import Corpus
from unifylens.crosslingual import evaluate
from unifylens.model import Parameters, shape_of, with_parameters
from unifylens.patching.stream import Model

DATA_FORMAT = 2
"""Part of every run's key. Raise it when training or what is stored changes, so that no old run is reused."""

WEIGHTS, HISTORY, EXPERIMENT, MANIFEST = (
    "weights.safetensors",
    "history.parquet",
    "experiment.json",
    "manifest.json",
)
FILES = (WEIGHTS, HISTORY, EXPERIMENT, MANIFEST)
"""Of every run, and nothing else."""


class Run(Card):
    """A trained model: its experiment, corpus, history and checkpoints, read from the store when asked for."""

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        """`folder` holds a complete run; see `load`."""
        self.experiment = experiment
        self.folder = folder

    def ending(self) -> dict[str, Any]:
        """Recall and transfer at the end and the step at which it diverged; empty if its folder is gone."""
        try:
            last = self.final
            return {"recall": last["recall"], "transfer": last["transfer"], "diverged_at": self.diverged_at}
        except OSError:
            return {}

    def _card(self) -> tuple[str, dict[str, str]]:
        lines = {"experiment": cards.settings(self.experiment.differences()), "folder": str(self.folder)}
        ending = self.ending()
        if not ending:
            return f"Run {self.folder.name} (its folder is gone)", lines
        texts = [f"{name} {ending[name]:.2f}" for name in ("recall", "transfer")]
        if ending["diverged_at"] is not None:
            texts.append(f"diverged at step {ending['diverged_at']}")
        lines["weights"] = f"after steps {', '.join(map(str, self.steps))}"
        return f"Run {self.folder.name} ({', '.join(texts)})", lines

    def __getstate__(self) -> dict[str, Any]:
        """All but the model, which is read again where the run arrives: a bridge cannot be pickled."""
        return {name: value for name, value in vars(self).items() if name != "model"}

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus, built again from the experiment."""
        return Corpus.build(self.experiment)

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row per evaluation: step, tokens_seen, loss, recall, transfer, unification by layer, and more."""
        return by_layer(pd.read_parquet(self.folder / HISTORY))

    @property
    def final(self) -> pd.Series:
        """Last row of the history; it is measured on all facts."""
        return self.history.iloc[-1]

    @cached_property
    def diverged_at(self) -> int | None:
        """First step at which the loss or the states were not finite; None if they always were."""
        return json.loads((self.folder / MANIFEST).read_text())["diverged_at"]

    @cached_property
    def model(self) -> Model:
        """The trained model."""
        return self.checkpoint(self.steps[-1])

    @cached_property
    def steps(self) -> list[int]:
        """Steps whose weights are kept."""
        with safe_open(self.folder / WEIGHTS, framework="pt") as file:
            return sorted({int(name.split("/")[0]) for name in file.keys()})

    def transfer(self) -> pd.DataFrame:
        """Answers to facts in languages in which they were never seen: `unifylens.transfer`."""
        return evaluate.transfer(self.model, self.corpus)

    def unification(
        self, position: str = "answer", facts: str = "held-out", n_facts: int = 1024, seed: int = 0
    ) -> pd.DataFrame:
        """Every variant of the unification score by layer, with its controls: `unifylens.unification`."""
        return evaluate.unification(self.model, self.corpus, position, facts, n_facts, seed)

    def states(
        self, facts: ArrayLike | Tensor, position: str = "answer"
    ) -> Float[Tensor, "layer language fact d_model"]:
        """Residual stream of facts, numbers or a mask, in every language: `unifylens.states`."""
        return evaluate.states(self.model, self.corpus, facts, position)

    def checkpoint(self, step: int) -> Model:
        """The model after `step` steps. Raises ValueError for a step that was not kept."""
        shape = shape_of(self.experiment.model, self.corpus.d_vocab, self.corpus.n_ctx)
        return with_parameters(shape, self.parameters(step))

    def parameters(self, step: int) -> Parameters:
        """The parameters after `step` steps, by `HookedTransformer`'s names, whichever TransformerLens is installed.

        Raises ValueError for a step that was not kept.
        """
        if step not in self.steps:
            raise ValueError(
                f"step={step} was never saved; allowed: {', '.join(map(str, self.steps))} "
                "(train.n_checkpoints decides how many)."
            )
        step = self.steps[self.steps.index(step)]  # 5.0 is 5, but no name of weights
        prefix = f"{step}/"
        with safe_open(self.folder / WEIGHTS, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]
            # copies: what safetensors gives is the file itself, mapped
            return {name.removeprefix(prefix): file.get_tensor(name).clone() for name in names}


def by_layer(history: pd.DataFrame) -> pd.DataFrame:
    """A history whose measures are numbered by layer, as everything is; early ones counted blocks, from 0.

    Layer `l` is the residual stream after block `l - 1`; the embedding, layer 0, is not measured during training.
    """
    numbered = {name: name.rsplit("_", 1) for name in history if name.rpartition("_")[2].isdecimal()}
    if not any(number == "0" for _, number in numbered.values()):
        return history
    return history.rename(
        columns={name: f"{measure}_{int(number) + 1}" for name, (measure, number) in numbered.items()}
    )


def folder_of(experiment: Experiment) -> Path:
    """Where the run of an experiment lies, or would lie."""
    return environment.home() / "runs" / experiment.key(DATA_FORMAT)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder that takes the target's place only when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield scratch
        if target.exists():
            shutil.rmtree(target)
        os.replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def save(
    experiment: Experiment,
    history: pd.DataFrame,
    checkpoints: dict[int, dict[str, Tensor]],
    diverged_at: int | None = None,
) -> Run:
    """Write a run at once or not at all; `checkpoints` are state dicts by step. Raises OSError if it cannot."""
    target = folder_of(experiment)
    with _new_folder(target) as folder:
        flat = {f"{step}/{name}": p.contiguous() for step, ps in checkpoints.items() for name, p in ps.items()}
        _save_tensors(flat, folder / WEIGHTS)
        history.to_parquet(folder / HISTORY, index=False)
        (folder / EXPERIMENT).write_text(experiment.model_dump_json(indent=1))
        sums = {name: _digest(folder / name) for name in (WEIGHTS, HISTORY, EXPERIMENT)}
        manifest = {"format": DATA_FORMAT, "diverged_at": diverged_at}
        sums[MANIFEST] = _manifest_digest(manifest)
        (folder / MANIFEST).write_text(json.dumps(manifest | {"sha256": sums}, indent=1))
    return Run(experiment, target)


def _save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:  # how safetensors tells of a disk that is full
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error


def _manifest_digest(manifest: dict) -> str:
    """Checksum of what a manifest says besides checksums."""
    return hashlib.sha256(json.dumps([manifest["format"], manifest["diverged_at"]]).encode()).hexdigest()


def load(experiment: Experiment) -> Run | None:
    """The stored run of an experiment, or None. A damaged one is reported by name, removed, and not used."""
    folder = folder_of(experiment)
    if not folder.exists():
        return None
    problem = _damage(folder)
    if problem is None:
        return Run(experiment, folder)
    warnings.warn(f"run {folder.name} in {folder.parent} is damaged ({problem}); it is trained again", stacklevel=2)
    shutil.rmtree(folder)
    return None


def _damage(folder: Path, checked: Sequence[str] = (WEIGHTS, HISTORY, EXPERIMENT)) -> str | None:
    """What is wrong with a run; only the files to be `checked` are read whole."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        sums = dict(manifest["sha256"])
        if sums.get(MANIFEST) != _manifest_digest(manifest):
            return f"{MANIFEST} does not match its checksum"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read: {type(error).__name__}"
    for name in (WEIGHTS, HISTORY, EXPERIMENT):
        if not (folder / name).is_file():
            return f"{name} is missing"
        if name in checked and _digest(folder / name) != sums.get(name):
            return f"{name} does not match its checksum"
    return None


# --- what is there -------------------------------------------------------------------------------------------


def runs() -> pd.DataFrame:
    """What the store holds: one row a run or interrupted stack, and one for everything that is neither.

    Columns: `key`; `differs`, the settings that are not the defaults, but the seed; `seed`; `steps`; `MB`; `modified`;
    `ours`, whether `clear` may delete it; and `state`: `intact`, `interrupted`, or what else it is. Weights are not
    read for it: damage to them is found when a run is loaded.
    """
    return _listing(_items())


def size() -> int:
    """Bytes that runs and interrupted stacks take on disk."""
    return sum(item.bytes for item in _items() if item.ours)


def clear(
    which: str | Experiment | Run | Iterable[str | Experiment | Run] = (), *, everything: bool = False
) -> pd.DataFrame:
    """Delete runs: some by key, experiment or run (a sweep, the column `key` of `runs()`), or `everything`.

    Gives what was deleted, as `runs` lists it. An interrupted stack goes by its own key, or when all its experiments
    are named. What was not made here, or has other files beside it, is left alone, with `everything` too.
    Raises ValueError, before anything is deleted, for a key that is not in the store or must be left alone, and unless
    exactly one of `which` and `everything` is given.
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
    deleted = [items[key] for key in dict.fromkeys(chosen)]
    table = _listing(deleted)
    for item in deleted:
        item.delete()
    return table


def _listing(items: Sequence[_Item]) -> pd.DataFrame:
    columns = ("key", "differs", "seed", "steps", "MB", "modified", "ours", "state")
    table = pd.DataFrame([item.row() for item in items], columns=columns)
    return table.astype({"seed": "Int64", "steps": "Int64"})


def _key_of(one: str | Experiment | Run) -> str:
    if isinstance(one, Run):
        return one.folder.name
    if isinstance(one, Experiment):
        return one.key(DATA_FORMAT)
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

    @property
    def key(self) -> str:
        return self.path.stem if self.stack else self.path.name

    @property
    def bytes(self) -> int:
        files = [self.path] if self.stack else [self.path / name for name in FILES]
        return sum(file.stat().st_size for file in files if file.is_file()) if self.ours else 0

    def row(self) -> dict[str, Any]:
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
            "modified": pd.Timestamp.fromtimestamp(self.path.lstat().st_mtime),
            "ours": self.ours,
            "state": self.state,
        }

    def delete(self) -> None:
        """Remove the files, then the folder; under another name first, so that no half of a run is ever found."""
        if self.stack:
            self.path.unlink(missing_ok=True)
            return
        scratch = Path(tempfile.mkdtemp(prefix=f".{self.key}-", dir=self.path.parent))
        self.path.rename(scratch / self.key)
        for name in FILES:
            (scratch / self.key / name).unlink(missing_ok=True)
        (scratch / self.key).rmdir()
        scratch.rmdir()


def _items() -> list[_Item]:
    """Everything in the store's two folders, but what is being written (its name begins with a dot)."""
    items = [_run_at(path) for path in _listed(environment.home() / "runs")]
    for path in _listed(_progress_folder()):
        keys = [] if path.is_symlink() else _stack_of(path)
        ours = path.name == _progress_name(keys)
        items.append(_Item(path, "interrupted", ours, stack=tuple(keys)) if ours else _Item(path, "no stack"))
    return items


def _listed(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if not path.name.startswith("."))


def _run_at(path: Path) -> _Item:
    """What lies at a run's place: ours where an experiment says so whose key is the folder's name."""
    if path.is_symlink() or not path.is_dir():
        return _Item(path, "no run: a link or a file")
    if not (path / EXPERIMENT).is_file():
        return _Item(path, f"no run: without {EXPERIMENT}")
    try:
        experiment = Experiment.model_validate_json((path / EXPERIMENT).read_text(encoding="utf-8"))
        formats = {experiment.key(number): number for number in range(1, DATA_FORMAT + 1)}
        if path.name not in formats:
            return _Item(path, "no run: under the key of another experiment")
        files = {file.name for file in path.iterdir() if file.is_file() and not file.is_symlink()}
        if others := sorted({file.name for file in path.iterdir()} - (files & set(FILES))):
            return _Item(path, f"holds more than a run: {', '.join(others)}", experiment=experiment)
        old, problem = formats[path.name] < DATA_FORMAT, _damage(path, (HISTORY, EXPERIMENT))
    except (OSError, ValueError) as error:
        return _Item(path, f"no run: cannot be read ({type(error).__name__})")
    state = f"damaged: {problem}" if problem else "of an older format" if old else "intact"
    return _Item(path, state, True, experiment)


class Progress:
    """Where an interrupted training goes on: one checksummed file, replaced as a whole."""

    def __init__(self, experiments: list[Experiment]) -> None:
        """The file belongs to exactly these experiments, trained together in this order."""
        self._keys = [experiment.key(DATA_FORMAT) for experiment in experiments]
        self.path = _progress_folder() / _progress_name(self._keys)

    def save(self, tensors: dict[str, Tensor], state: dict) -> None:
        """Replace the file by these tensors and this JSON-able state."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_name(f".{self.path.stem}-{os.getpid()}-{threading.get_ident()}.tmp")
        text = json.dumps(state)
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        try:
            sums = {"state": text, "sha256": _tensor_digest(tensors, text)}
            _save_tensors(tensors, scratch, {**sums, "experiments": " ".join(self._keys)})
            os.replace(scratch, self.path)
        finally:
            scratch.unlink(missing_ok=True)

    def load(self) -> tuple[dict[str, Tensor], dict] | None:
        """What was saved, or None; a damaged file is reported by name and removed."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            intact = _tensor_digest(tensors, metadata["state"]) == metadata["sha256"]
        except (OSError, SafetensorError, KeyError, TypeError):
            intact = False
        if not intact:
            warnings.warn(f"interrupted training {self.path.name} is damaged; it starts anew", stacklevel=2)
            self.remove()
            return None
        return tensors, json.loads(metadata["state"])

    def remove(self) -> None:
        """Forget it."""
        self.path.unlink(missing_ok=True)


def _progress_folder() -> Path:
    return environment.home() / "interrupted"


def stacks_under_way() -> list[list[str]]:
    """Keys of the experiments of every interrupted stack, in the order in which they were trained together."""
    stacks = [_stack_of(path) for path in sorted(_progress_folder().glob("*.safetensors"))]
    return [keys for keys in stacks if keys]


def _stack_of(path: Path) -> list[str]:
    """Keys of an interrupted stack's experiments; none where they cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata()["experiments"].split()
    except (OSError, SafetensorError, KeyError, TypeError):  # damaged, or gone by now: told when it is read
        return []


def _progress_name(keys: Sequence[str]) -> str:
    return hashlib.sha256("".join(keys).encode()).hexdigest()[:20] + ".safetensors"


def _tensor_digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
