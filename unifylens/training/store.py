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
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unifylens import environment
from unifylens.config import Experiment
from unifylens.corpus.corpus import Corpus
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


class Run:
    """A trained model: its experiment, corpus, history and checkpoints, read from the store when asked for."""

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        """`folder` holds a complete run; see `load`."""
        self.experiment = experiment
        self.folder = folder

    def __repr__(self) -> str:
        """Where the run lies and how it ended."""
        last = self.final
        diverged = "" if self.diverged_at is None else f", diverged at step {self.diverged_at}"
        return f"Run({self.folder.name}: recall {last['recall']:.2f}, transfer {last['transfer']:.2f}{diverged})"

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


def _damage(folder: Path) -> str | None:
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
        if _digest(folder / name) != sums.get(name):
            return f"{name} does not match its checksum"
    return None


class Progress:
    """Where an interrupted training goes on: one checksummed file, replaced as a whole."""

    def __init__(self, experiments: list[Experiment]) -> None:
        """The file belongs to exactly these experiments, trained together in this order."""
        self._keys = [experiment.key(DATA_FORMAT) for experiment in experiments]
        name = hashlib.sha256("".join(self._keys).encode()).hexdigest()[:20]
        self.path = _progress_folder() / f"{name}.safetensors"

    def save(self, tensors: dict[str, Tensor], state: dict) -> None:
        """Replace the file by these tensors and this JSON-able state."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
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
    stacks = []
    for path in sorted(_progress_folder().glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                stacks.append(file.metadata()["experiments"].split())
        except (OSError, SafetensorError, KeyError, TypeError):  # damaged, or gone by now: told when it is read
            continue
    return stacks


def _tensor_digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
