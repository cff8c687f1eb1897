"""A trained model on disk: what its folder holds, whether that is whole and its own, and what is read from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unifylens import cards
from unifylens.cards import Card
from unifylens.config import Experiment
from unifylens.corpus.corpus import Corpus
from unifylens.crosslingual import evaluate
from unifylens.model import Parameters, shape_for, with_parameters
from unifylens.patching.stream import Model
from unifylens.training import disk

DATA_FORMAT = 3
"""Part of every run's key. Raise it when training (also under imposed attention) or what is stored changes."""

WEIGHTS, HISTORY, EXPERIMENT, MANIFEST = (
    "weights.safetensors",
    "history.parquet",
    "experiment.json",
    "manifest.json",
)
T = TypeVar("T")

FILES = (WEIGHTS, HISTORY, EXPERIMENT, MANIFEST)
"""Of every run, and nothing else."""


def key_of(experiment: Experiment) -> str:
    """Name of an experiment's run, which is a hash of its settings."""
    return experiment.key(DATA_FORMAT)


class Run(Card):
    """A trained model: its experiment, corpus, history and checkpoints, read from the store when asked for."""

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        """`folder` holds a complete run; see `load`."""
        self.experiment = experiment
        self.folder = folder
        self._checked: list[tuple[int, ...] | None] = []

    def problem(self) -> str | None:
        """What is wrong with its folder, or None. Read whole once, and again when a file was replaced or written to.

        Raises OSError where the disk does not let it be read.
        """
        files = [disk.content_identity(self.folder / name) for name in FILES]
        if files == self._checked:
            return None
        problem = damage(self.folder, key_of(self.experiment))
        if problem is None:
            self._checked = files
        return problem

    def _file(self, name: str) -> Path:
        """One of its files, for reading. Raises OSError if its folder is gone or holds something else by now."""
        problem = self.problem()
        if problem is None:
            return self.folder / name
        again = "`ul.train(run.experiment)` trains it again"
        if disk.identity(self.folder) is None:
            raise FileNotFoundError(f"run {self.folder.name} is no longer in {self.folder.parent}; {again}.")
        place = f"run {self.folder.name} in {self.folder.parent}"
        raise OSError(f"{place} is not what it was when it was loaded ({problem}); {again}.")

    def _read(self, name: str, read: Callable[[Path], T]) -> T:
        """What is read from one of its files; OSError as of `_file`, also where the run goes while it is read."""
        path = self._file(name)
        try:
            return read(path)
        except (OSError, ValueError, SafetensorError):
            self._file(name)
            raise

    def ending(self) -> dict[str, Any]:
        """Recall and transfer at the end and the step at which it diverged; empty if they cannot be read."""
        try:
            last = self.final
            return {"recall": last["recall"], "transfer": last["transfer"], "diverged_at": self.diverged_at}
        except OSError:
            return {}

    def _card(self) -> tuple[str, dict[str, str]]:
        lines = {"experiment": cards.settings(self.experiment.differences()), "folder": str(self.folder)}
        ending = self.ending()
        if not ending:
            gone = disk.identity(self.folder) is None
            return f"Run {self.folder.name} ({'its folder is gone' if gone else 'cannot be read'})", lines
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
        return by_layer(self._read(HISTORY, pd.read_parquet))

    @property
    def final(self) -> pd.Series:
        """Last row of the history; it is measured on all facts."""
        return self.history.iloc[-1]

    @cached_property
    def diverged_at(self) -> int | None:
        """First step at which the loss or the states were not finite; None if they always were."""
        return json.loads(self._read(MANIFEST, Path.read_bytes))["diverged_at"]

    @cached_property
    def model(self) -> Model:
        """The trained model."""
        return self.checkpoint(self.steps[-1])

    @cached_property
    def steps(self) -> list[int]:
        """Steps whose weights are kept."""

        def steps(path: Path) -> set[int]:
            with safe_open(path, framework="pt") as file:
                return {int(name.split("/")[0]) for name in file.keys()}

        return sorted(self._read(WEIGHTS, steps))

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
        shape = shape_for(self.experiment.model, self.corpus)
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

        def parameters(path: Path) -> Parameters:
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if name.startswith(prefix)]
                # copies: what safetensors gives is the file itself, mapped
                return {name.removeprefix(prefix): file.get_tensor(name).clone() for name in names}

        return self._read(WEIGHTS, parameters)


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


def manifest_of(folder: Path, diverged_at: int | None) -> dict[str, Any]:
    """What the manifest of a run says whose other files are written: its format, its ending and all checksums."""
    manifest: dict[str, Any] = {"format": DATA_FORMAT, "diverged_at": diverged_at}
    sums = {name: _digest(folder / name) for name in FILES if name != MANIFEST}
    return manifest | {"sha256": {**sums, MANIFEST: _manifest_digest(manifest)}}


def damage(folder: Path, key: str, checked: Sequence[str] = FILES) -> str | None:
    """What is wrong with the run of a key in a folder, or None; only the files to be `checked` are read whole.

    The experiment, whose checksum stands in the manifest, says whose run it is. Raises OSError, with the folder, where
    the disk does not let it be read: that is no damage.
    """
    try:
        if not folder.is_dir():
            return "a link to nothing" if folder.is_symlink() else "a file where a folder should be"
        try:
            if not disk.is_regular(folder / MANIFEST):
                return f"{MANIFEST} is no file"
            manifest = json.loads((folder / MANIFEST).read_bytes())
            sums = dict(manifest["sha256"])
            if sums[MANIFEST] != _manifest_digest(manifest):
                return f"{MANIFEST} does not match its checksum"
        except (*_ABSENT, ValueError, KeyError, TypeError, RecursionError) as error:
            return f"{MANIFEST} cannot be read: {type(error).__name__}"
        for name in (WEIGHTS, HISTORY, EXPERIMENT):
            try:
                if not disk.is_regular(folder / name):
                    return f"{name} is no file"
                with (folder / name).open("rb") as file:
                    if name in checked and hashlib.file_digest(file, "sha256").hexdigest() != sums.get(name):
                        return f"{name} does not match its checksum"
            except _ABSENT:
                return f"{name} is missing"
        try:
            experiment = Experiment.model_validate_json((folder / EXPERIMENT).read_bytes())
            other = experiment.key(manifest["format"]) != key
        except (ValueError, RecursionError) as error:
            return f"{EXPERIMENT} cannot be read: {type(error).__name__}"
    except OSError as error:
        raise disk.unreadable(folder, error) from error
    return "it is the run of another experiment" if other else None


_ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest_digest(manifest: dict[str, Any]) -> str:
    """Checksum of what a manifest says besides checksums."""
    return hashlib.sha256(json.dumps([manifest["format"], manifest["diverged_at"]]).encode()).hexdigest()
