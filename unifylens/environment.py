"""Around the library: folders, the five settings a user may change, and the packages that facts come from."""

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
    """Folder of the trained runs: `UNIFYLENS_HOME`, else the user's cache folder.

    Raises:
        ValueError: if it begins with `~` and the name of no user.
    """
    chosen = os.environ.get("UNIFYLENS_HOME")
    if not chosen:
        return Path(platformdirs.user_cache_dir("unifylens"))
    try:
        return Path(chosen).expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"UNIFYLENS_HOME is {chosen!r}; allowed: a folder, and after ~ a slash or a user") from None


def is_checkout(folder: Path) -> bool:
    """Whether a folder is a checkout of this project, by its `pyproject.toml` and its notebooks."""
    try:
        text = (folder / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return False
    return 'name = "unifylens"' in text and (folder / "notebooks").is_dir()


def project_dir() -> Path:
    """The checkout of this project that the working directory lies in; else the working directory."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if is_checkout(folder)), here)


def build_dir() -> Path:
    """Folder of all that a run writes and git ignores: `build` in the project's folder."""
    return project_dir() / "build"


def published_dir(size: str | None = None) -> Path:
    """Folder of the figures and `claims.json` that the project ships, which only `--publish` writes to.

    `size` is a profile, by default that of `profile()`.
    """
    folder = project_dir() / "figures"
    return folder / "full" if (size or profile()) == "full" else folder


def figures_dir() -> Path:
    """Folder that figures and `claims.json` are written to.

    `UNIFYLENS_FIGURES`, else `build/figures` in the project's folder (outside a checkout: in the working directory),
    or `build/scratch` where a run is not `reported`.

    Raises:
        ValueError: if `UNIFYLENS_FIGURES` is the folder that the project ships.
    """
    chosen = os.environ.get("UNIFYLENS_FIGURES")
    if chosen:
        folder = Path(chosen).expanduser().absolute()
        if is_checkout(project_dir()) and folder.resolve() == published_dir().resolve():
            raise ValueError(
                f"UNIFYLENS_FIGURES is {chosen!r}, which the project ships; allowed: another folder, or `make publish`"
            )
        return folder
    return build_dir() / ("figures" if reported() else "scratch")


def reported() -> bool:
    """Whether a run has the settings that its text reports, and must find what the text says; else it is scratch.

    `UNIFYLENS_REPORTED` (`1` or `0`) says so. Unset, it is true under pytest (notebooks are then regression tests) and
    false otherwise: by hand, as in JupyterLab, any dial may be turned.

    Raises:
        ValueError: if it is neither `0` nor `1`.
    """
    chosen = os.environ.get("UNIFYLENS_REPORTED") or str(int("PYTEST_VERSION" in os.environ))  # kernels inherit it
    if chosen not in ("0", "1"):
        raise ValueError(f"UNIFYLENS_REPORTED is {chosen!r}; allowed: '0' or '1'")
    return chosen == "1"


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
