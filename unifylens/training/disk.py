"""How the store touches a disk: what is new appears whole, what is in the way is set aside, errors name a remedy."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

SET_ASIDE = ".set-aside-"
"""In the name of what was in the way, before eight random digits."""

SECONDS_OF_OTHERS = 86_400.0
"""Age from which what another machine's process was writing counts as left behind."""

_SCRATCH = re.compile(r"\..+\.(?P<place>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}")
_MADE_HERE = re.compile(
    r"weights\.safetensors|history\.parquet|experiment\.json|manifest\.json|progress\.safetensors|results-\w+\.pickle|\.tmp\w{6}"
)
"""Files that may lie in a scratch folder; safetensors writes to the last, then renames it."""


# --- writing -------------------------------------------------------------------------------------------------


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """A new folder beside the target, with the rights that the umask says; gone at the end, unless it was renamed.

    What dead processes left of theirs goes first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = scratch_name(target)
    scratch.mkdir()
    try:
        sweep(target.parent, now=scratch.stat().st_mtime)
        yield scratch
    finally:
        remove_folder(scratch)


def scratch_name(target: Path) -> Path:
    """Where this process may write before what is there takes the target's place."""
    return target.with_name(f".{target.name}.{_place()}-{os.getpid()}-{secrets.token_hex(4)}")


def sweep(folder: Path, now: float) -> None:
    """Remove scratch of dead processes; `now` is the time by the clock of the folder's disk."""
    for entry in os.scandir(folder):
        name = _SCRATCH.fullmatch(entry.name)
        if name is None or not entry.is_dir(follow_symlinks=False):
            continue
        if name["place"] == _place():
            if psutil.pid_exists(int(name["pid"])):
                continue
        elif (seen := identity(Path(entry.path))) and now - seen[2] / 1e9 < SECONDS_OF_OTHERS:
            continue
        remove_folder(Path(entry.path))


def _place() -> str:
    """Where process numbers mean the same: machine, its start, and namespace (containers share a machine's name)."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def remove_folder(folder: Path) -> None:
    """Remove a scratch folder and what it may hold; with anything else in it, all of it stays."""
    with suppress(OSError):
        entries = list(os.scandir(folder))
        if all(_MADE_HERE.fullmatch(entry.name) and not entry.is_dir(follow_symlinks=False) for entry in entries):
            for entry in entries:
                os.unlink(entry.path)
            folder.rmdir()


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors, as readable as their folder. Raises OSError, also where safetensors has an error of its own."""
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:  # how safetensors tells of a disk that is full
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error
    with suppress(PermissionError):  # of disks without rights
        path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors lets nobody else read


def may_remove(path: Path) -> bool:
    """Whether this user may remove a file or link, or a folder with what is in it. Raises OSError if it is gone."""
    folder, effective = path.parent.stat(), os.access in os.supports_effective_ids
    if folder.st_mode & stat.S_ISVTX and os.geteuid() not in (0, folder.st_uid, path.lstat().st_uid):
        return False
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=effective):
        return False
    if path.is_symlink() or not path.is_dir():
        return True
    return os.access(path, os.R_OK | os.X_OK, effective_ids=effective) and all(map(may_remove, path.iterdir()))


# --- what is in the way --------------------------------------------------------------------------------------


def identity(path: Path) -> tuple[int, int, int] | None:
    """What tells a file, link or folder from another of its name; None where there is none. Raises OSError."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(path, error) from error
    return status.st_dev, status.st_ino, status.st_mtime_ns


def content_identity(path: Path) -> tuple[int, ...] | None:
    """What changes when the content of a file may have, also that of the one a link leads to; None without a file.

    The time of the last change cannot be set back, as that of the last writing can. Raises OSError.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable(path, error) from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_regular(path: Path) -> bool:
    """Whether there is a file, and no folder, or pipe that reading would wait for. Raises OSError where nothing is."""
    return stat.S_ISREG(path.stat().st_mode)


def set_aside(path: Path, seen: tuple[int, int, int], name: str | None = None) -> Path | None:
    """Rename what was seen at a path, after itself or a name, so that its place is free; None if it is no longer there.

    Raises OSError, with the remedy, if it cannot be renamed.
    """
    aside = path.with_name(f"{name or path.name}{SET_ASIDE}{secrets.token_hex(4)}")
    try:
        if identity(path) != seen:
            return None
        path.rename(aside)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path} is in the way and cannot be renamed ({error.strerror}). Move it by hand, or set UNIFYLENS_HOME to "
            "another folder",
        ) from error
    if identity(aside) == seen:
        return aside
    with suppress(OSError):  # another process put a new one there in between
        aside.rename(path)
    return None


# --- errors in words -----------------------------------------------------------------------------------------


def unreadable(path: Path, error: OSError) -> OSError:
    """What to raise where the disk does not let something be read."""
    remedy = "Nothing was changed: look at the disk, then call again"
    if error.errno in (errno.EACCES, errno.EPERM):
        remedy = f"Its owner may allow it (chmod -R a+rX {path.parent}), or set UNIFYLENS_HOME to a folder of your own"
    return OSError(error.errno or errno.EIO, f"{path} cannot be read ({error.strerror or error}). {remedy}")


def refuse_unwritable(folder: Path) -> None:
    """Make a folder and write in it, so that one that cannot be written is told before the work. Raises OSError."""
    remedy = "Set UNIFYLENS_HOME to a folder that you may write to"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with scratch_folder(folder / "trial") as scratch:
            (scratch / "manifest.json").write_bytes(bytes(4096))
    except (FileExistsError, NotADirectoryError) as error:
        parts = [*reversed(folder.parents), folder]
        way = next((part for part in parts if os.path.lexists(part) and not part.is_dir()), folder)
        kind = "a link to nothing" if way.is_symlink() else "a file"
        raise OSError(error.errno, f"{folder} cannot be made: {way} is {kind}, not a folder. {remedy}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "Make space there, or set UNIFYLENS_HOME to a folder on a larger disk"
        raise OSError(error.errno, f"{folder} cannot be written ({error.strerror}). {remedy}") from error
