"""Where an interrupted training goes on, and which process trains a stack when several want the same one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import filelock
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unifylens import environment
from unifylens.config import Experiment
from unifylens.training import disk
from unifylens.training.run import key_of

FORMAT = "2"
"""Of the file. Raise it when what is saved or its checksum changes: a file of another format is not used."""


class Progress:
    """Where an interrupted training goes on: one checksummed file, replaced as a whole."""

    def __init__(self, experiments: Sequence[Experiment]) -> None:
        """The file belongs to exactly these experiments, trained together in this order."""
        self._keys = [key_of(experiment) for experiment in experiments]
        self.path = folder() / name_of(self._keys)
        self._lock: filelock.BaseFileLock | None = None

    def save(self, tensors: dict[str, Tensor], state: dict) -> None:
        """Replace the file by these tensors and this JSON-able state. Raises OSError if it cannot be written."""
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        said = {"format": FORMAT, "experiments": " ".join(self._keys), "state": json.dumps(state)}
        with disk.scratch_folder(self.path) as scratch:
            written = scratch / "progress.safetensors"
            disk.write_tensors(tensors, written, said | {"sha256": _digest(tensors, said)})
            os.replace(written, self.path)

    def load(self) -> tuple[dict[str, Tensor], dict] | None:
        """What was saved, or None; a file that is damaged or not this stack's is reported by name and set aside.

        Raises OSError where the disk does not let it be read.
        """
        saved, problem = None, "is no file"
        try:
            if disk.is_regular(self.path):
                with self.path.open("rb") as file:
                    hashlib.file_digest(file, "md5")  # reads all: mapped, an error of the disk would end the process
                saved, problem = self._read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise disk.unreadable(self.path, error) from error
        except (SafetensorError, KeyError, TypeError, ValueError):
            problem = "is damaged"
        if problem:
            self.refuse(problem)
        return saved

    def _read(self) -> tuple[tuple[dict[str, Tensor], dict] | None, str]:
        """What was saved, or else what is wrong with it."""
        with safe_open(self.path, framework="pt") as file:
            said = dict(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        sha256 = said.pop("sha256")
        if said.get("format") != FORMAT:
            return None, "was saved by another version of unifylens"
        if _digest(tensors, said) != sha256:
            return None, "is damaged"
        if said["experiments"].split() != self._keys:
            return None, "is that of other experiments"
        return (tensors, json.loads(said["state"])), ""

    def refuse(self, problem: str) -> None:
        """Set the file aside, with a warning that says why."""
        seen = disk.identity(self.path)
        if seen and (aside := disk.set_aside(self.path, seen)):
            warnings.warn(
                f"interrupted training {self.path.name} {problem}; it starts anew, and the file is now {aside.name} in "
                f"{self.path.parent}",
                stacklevel=3,
            )

    def remove(self) -> None:
        """Forget it, where that can be done: not another user's, or a folder that was put there."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def claim(self) -> bool:
        """Whether this process is the one to train the stack, until `release` or its end; another one may be.

        This only saves work: what is saved is whole and checked without it. Raises OSError where the disk has no locks,
        PermissionError where another user's lock may not be opened.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        mode = self.path.parent.stat().st_mode & 0o666 | 0o600  # who may write beside it may lock it
        lock = filelock.FileLock(self.lock_path, mode=mode, thread_local=False, fallback_to_soft=False)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return False
        except NotImplementedError as error:
            raise OSError(errno.ENOLCK, str(error)) from error
        self._lock = lock
        return True

    def release(self) -> None:
        """Let others train the stack."""
        if self._lock is not None:
            with suppress(OSError):
                self.lock_path.unlink(missing_ok=True)  # while it is held: who opened it by now finds it gone
            with suppress(OSError):
                self._lock.release(force=True)
            self._lock = None

    @property
    def lock_path(self) -> Path:
        """A file that whoever trains the stack has locked."""
        return self.path.with_name(f".{self.path.stem}.lock")


def folder() -> Path:
    """Of all interrupted stacks."""
    return environment.home() / "interrupted"


def stacks_under_way() -> list[list[str]]:
    """Keys of the experiments of every interrupted stack, in the order in which they were trained together."""
    stacks = [stack_of(path) for path in sorted(folder().glob("*.safetensors"))]
    return [keys for keys in stacks if keys]


def stack_of(path: Path) -> list[str]:
    """Keys of an interrupted stack's experiments; none where they cannot be read."""
    try:
        if not disk.is_regular(path):
            return []
        with safe_open(path, framework="pt") as file:
            return file.metadata()["experiments"].split()
    except (OSError, SafetensorError, KeyError, TypeError):  # damaged, or gone by now: told when it is read
        return []


def name_of(keys: Sequence[str]) -> str:
    """Of the file of a stack."""
    return hashlib.sha256("".join(keys).encode()).hexdigest()[:20] + ".safetensors"


def _digest(tensors: dict[str, Tensor], said: dict[str, str]) -> str:
    """Checksum of everything in a file: what it says, and names, types, shapes and content of its tensors."""
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
