"""The three lists of packages agree, and the Makefile installs safely wherever it lies."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def disagreements(pyproject: str, lock: str, environment: str) -> list[str]:
    """All that is wrong with the three lists, each in a sentence; none if they agree."""
    project = tomllib.loads(pyproject)["project"]
    declared = [Requirement(d) for d in project["dependencies"]]
    declared += [Requirement(d) for extra in project["optional-dependencies"].values() for d in extra]
    problems = []

    locked = {}
    for line in lock.splitlines():
        if line and not line.startswith("#"):
            if match := re.fullmatch(r"([a-z0-9-]+)==([0-9][a-z0-9.]*)", line):
                locked[match[1]] = match[2]
            else:
                problems.append(f"the lock's line {line!r} is not name==version")

    for need in declared:
        name = canonicalize_name(need.name)
        sides = {s.operator for s in need.specifier}
        if not (sides == {"=="} or ("<" in sides and ">=" in sides)):
            problems.append(f"{need} is not bounded on both sides")
        if name not in locked:
            problems.append(f"{name} is not in the lock")
        elif not need.specifier.contains(locked[name], prereleases=True):
            problems.append(f"{name} {locked[name]} of the lock is outside {need.specifier}")

    conda = yaml.safe_load(environment)["dependencies"]
    lines = next(d["pip"] for d in conda if isinstance(d, dict))
    pins = {r.name: r for r in map(Requirement, (x for x in lines if not x.startswith("-")))}
    for need in declared:
        if canonicalize_name(need.name) not in pins:
            problems.append(f"{need.name} is not in environment.yml")
    for name, pin in pins.items():
        if str(pin.specifier) != f"=={locked.get(name)}":
            problems.append(f"environment.yml has {pin}, the lock {locked.get(name)}")
    python = next(d for d in conda if isinstance(d, str) and d.startswith("python=")).partition("=")[2]
    if not Requirement(f"python{project['requires-python']}").specifier.contains(python):
        problems.append(f"environment.yml has Python {python}, outside {project['requires-python']}")
    return problems


PYPROJECT = """
[project]
requires-python = ">=3.11,<3.14"
dependencies = ["torch==2.13.0", "numpy>=2,<3"]
optional-dependencies = { test = ["pytest>=8,<10"] }
"""
LOCK = "# exact\nnumpy==2.4.6\npytest==9.2.0\ntorch==2.13.0\n"
ENVIRONMENT = """
dependencies:
  - python=3.11
  - pip: [-c requirements.lock, torch==2.13.0, numpy==2.4.6, pytest==9.2.0, "-e .[test]"]
"""


def test_the_three_lists_agree():
    texts = [(ROOT / name).read_text() for name in ("pyproject.toml", "requirements.lock", "environment.yml")]
    assert disagreements(*texts) == []


def test_a_good_example_agrees():
    assert disagreements(PYPROJECT, LOCK, ENVIRONMENT) == []


@pytest.mark.parametrize(
    ("which", "old", "new", "complaint"),
    [
        (0, "numpy>=2,<3", "numpy>=2", "numpy>=2 is not bounded on both sides"),
        (0, "numpy>=2,<3", "numpy>=3,<4", "numpy 2.4.6 of the lock is outside"),
        (0, '"numpy>=2,<3"', '"numpy>=2,<3", "scipy>=1,<2"', "scipy is not in the lock"),
        (0, '"numpy>=2,<3"', '"numpy>=2,<3", "scipy>=1,<2"', "scipy is not in environment.yml"),
        (1, "torch==2.13.0", "torch==2.13.0+cpu", "'torch==2.13.0+cpu' is not name==version"),
        (1, "pytest==9.2.0", "pytest>=9.2.0", "'pytest>=9.2.0' is not name==version"),
        (2, "numpy==2.4.6", "numpy==2.4.5", "environment.yml has numpy==2.4.5, the lock 2.4.6"),
        (2, "python=3.11", "python=3.10", "environment.yml has Python 3.10"),
    ],
)
def test_a_bad_example_is_found(which, old, new, complaint):
    texts = [PYPROJECT, LOCK, ENVIRONMENT]
    assert old in texts[which]
    texts[which] = texts[which].replace(old, new)
    assert any(complaint in problem for problem in disagreements(*texts))


FAKE_PYTHON = """#!/bin/sh
# Stands in for Python: reports a version, "makes" an environment, logs what it is asked to install.
case "$1 $2" in
  "-c "*) echo "{version}" ;;
  "-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python && echo "venv" >> log ;;
  "-m pip") case "$*" in
      *--version*) ;;
      *" -r requirements.lock") echo "lock" >> log; if [ -e break-the-install ]; then exit 1; fi ;;
      *" -e .") echo "package" >> log ;;
      *) exit 1 ;;
    esac ;;
  *) exit 1 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the Makefile needs, in a folder with spaces in its name."""
    folder = tmp_path / "a folder, with spaces"
    folder.mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def make(checkout: Path, version: str = "3.12.1", target: str = "venv") -> subprocess.CompletedProcess:
    python = checkout / "some python"
    python.write_text(FAKE_PYTHON.format(version=version))
    python.chmod(0o755)
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    command = ["make", target, f"PYTHON={python}"]
    return subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True)


def log(checkout: Path) -> list[str]:
    path = checkout / "log"
    return path.read_text().split() if path.exists() else []


def test_make_installs_once(checkout):
    assert make(checkout).returncode == 0
    assert log(checkout) == ["venv", "lock", "package"]
    again = make(checkout)
    assert (again.returncode, again.stdout) == (0, "")
    assert log(checkout) == ["venv", "lock", "package"]


@pytest.mark.parametrize("changed", ["requirements.lock", "pyproject.toml"])
def test_make_installs_again_when_a_list_changes(checkout, changed):
    make(checkout)
    stamp = checkout / ".venv/.unifylens-installed"
    later = stamp.stat().st_mtime + 10
    os.utime(checkout / changed, (later, later))
    assert make(checkout).returncode == 0
    assert log(checkout) == ["venv", "lock", "package", "lock", "package"]


def test_make_installs_again_when_moved(checkout):
    make(checkout)
    moved = checkout.rename(checkout.with_name("elsewhere"))
    make(moved)
    assert log(moved) == ["venv", "lock", "package", "lock", "package"]


def test_make_repairs_an_interrupted_install(checkout):
    (checkout / "break-the-install").touch()
    assert make(checkout).returncode != 0
    (checkout / "break-the-install").unlink()
    assert make(checkout).returncode == 0
    assert log(checkout) == ["venv", "lock", "lock", "package"]
    shutil.copy("/bin/false", checkout / ".venv/bin/python")
    assert make(checkout).returncode == 0
    assert log(checkout)[-3:] == ["venv", "lock", "package"]


@pytest.mark.parametrize(
    ("version", "said"),
    [("3.8.10", "is 3.8.10"), ("without ensurepip 3.12.1", "is without ensurepip 3.12.1")],
)
@pytest.mark.parametrize("target", ["reproduce", "test", "lab"])
def test_make_says_when_python_does_not_do(checkout, version, said, target):
    done = make(checkout, version, target)
    assert done.returncode != 0
    assert "unifylens needs Python 3.11, 3.12 or 3.13 (found: " in done.stderr
    assert said in done.stderr
    assert not (checkout / ".venv").exists()


def test_make_says_when_python_does_not_run(checkout):
    done = make(checkout, '"; exit 1; "')
    assert done.returncode != 0
    assert "some python does not run" in done.stderr


def test_make_alone_explains_itself(checkout):
    done = make(checkout, target="help")
    targets = ("reproduce", "publish", "test", "docs", "lab", "lock", "clean")
    assert all(f"make {target} " in done.stdout for target in targets)
    assert not (checkout / ".venv").exists()
