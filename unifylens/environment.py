"""Around the library: folders, the four settings a user may change, and the packages that facts come from."""

import importlib.util
import os
import tempfile
from importlib import metadata
from pathlib import Path

import platformdirs

PROFILES = ("quick", "full")
SOURCES = ("babel", "country-converter", "anyascii")
"""Packages that facts and names in real languages come from."""


def home() -> Path:
    """Folder of the trained runs: `UNIFYLENS_HOME`, else the user's cache folder."""
    chosen = os.environ.get("UNIFYLENS_HOME")
    return Path(chosen).expanduser().absolute() if chosen else Path(platformdirs.user_cache_dir("unifylens"))


def project_dir() -> Path:
    """Nearest folder with `notebooks` in it, from the working directory upwards; else the former."""
    here = Path.cwd()
    return next((d for d in (here, *here.parents) if (d / "notebooks").is_dir()), here)


def figures_dir() -> Path:
    """Folder of the figures and `claims.json`: `UNIFYLENS_FIGURES`, else `figures` beside `notebooks`."""
    chosen = os.environ.get("UNIFYLENS_FIGURES")
    return Path(chosen).expanduser().absolute() if chosen else project_dir() / "figures"


def profile() -> str:
    """Size of the experiments: `UNIFYLENS_PROFILE`, `quick` (a laptop) unless set.

    Raises:
        ValueError: if it is neither `quick` nor `full`.
    """
    chosen = os.environ.get("UNIFYLENS_PROFILE") or "quick"
    if chosen not in PROFILES:
        raise ValueError(f"UNIFYLENS_PROFILE is {chosen!r}; allowed: {' or '.join(map(repr, PROFILES))}")
    return chosen


def seed_count(default: int) -> int:
    """Number of seeds of an experiment: `UNIFYLENS_SEEDS` if set, else `default`.

    Raises:
        ValueError: if it is not a whole number of at least 2 (an interval needs two).
    """
    chosen = os.environ.get("UNIFYLENS_SEEDS") or str(default)
    if not chosen.isdecimal() or int(chosen) < 2:
        raise ValueError(f"UNIFYLENS_SEEDS is {chosen!r}; allowed: whole numbers from 2")
    return int(chosen)


def sources() -> str:
    """The installed sources and their versions, such as `babel 2.18.0, ...`.

    Raises ImportError, naming what to install, where one is missing.
    """
    require("real", "facts in real languages", *SOURCES)
    return ", ".join(f"{name} {metadata.version(name)}" for name in SOURCES)


def require(extra: str, what: str, *packages: str) -> None:
    """Raise ImportError, naming the extra to install, where one of the packages that something needs is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name.replace("-", "_")) is None]
    if missing:
        raise ImportError(f"{what} need {', '.join(missing)}: pip install 'unifylens[{extra}]'")


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
