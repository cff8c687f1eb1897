"""What a wheel and an sdist hold: the whole library, and what it needs to be tested."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import unifylens as ul

ROOT = Path(__file__).parents[1]


def library() -> set[str]:
    """Files of the checkout that belong to the library."""
    kinds = {".py", ".pyi", ".toml", ".typed", ".js"}
    return {str(p.relative_to(ROOT)) for p in (ROOT / "unifylens").rglob("*") if p.suffix in kinds}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist of a copy of the checkout, which stays clean, and the wheel made from that sdist."""
    folder = tmp_path_factory.mktemp("built")
    unneeded = shutil.ignore_patterns(".*", "build", "figures", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "checkout", ignore=unneeded)
    (folder / "checkout/figures").mkdir()
    shutil.copy(ROOT / "figures/claims.json", folder / "checkout/figures")
    sdist = f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})"
    subprocess.run([sys.executable, "-c", sdist], cwd=folder / "checkout", check=True, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "wheel", *offline, "-w", str(folder), str(archive)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return archive, wheel


def test_the_sdist_holds_the_library_and_its_tests(built):
    with tarfile.open(built[0]) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    assert library() <= files
    assert {f"tests/{path.name}" for path in (ROOT / "tests").glob("*.py")} <= files
    lists = {"LICENSE", "README.md", "CITATION.cff", "pyproject.toml", "Makefile", "requirements.lock"}
    assert {*lists, "environment.yml", "figures/claims.json", "notebooks/00_quickstart.ipynb"} <= files


def test_the_wheel_holds_the_library_and_nothing_else(built):
    files = {name for name in zipfile.ZipFile(built[1]).namelist() if ".dist-info/" not in name}
    assert files == library()
    assert {"unifylens/py.typed", "unifylens/__init__.pyi", "unifylens/evidence/ledger.toml"} <= files


def test_the_wheel_says_what_it_is(built):
    with zipfile.ZipFile(built[1]) as wheel:
        about = f"unifylens-{ul.__version__}.dist-info"
        metadata = message_from_bytes(wheel.read(f"{about}/METADATA"))
        assert f"{about}/licenses/LICENSE" in wheel.namelist()
    assert metadata["Version"] == ul.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Paper, https://arxiv.org/abs/2508.11017" in metadata.get_all("Project-URL")
    assert {"notebooks", "real", "models", "distributed"} <= set(metadata.get_all("Provides-Extra"))
    assert metadata.get_payload().startswith("# unifylens")


def test_the_wheel_runs(built, tmp_path):
    zipfile.ZipFile(built[1]).extractall(tmp_path)
    code = (
        "import unifylens as ul; from unifylens.evidence.ledger import CLAIMS; "
        "corpus = ul.Corpus.build(ul.Experiment()); "
        "print(ul.__file__, corpus.n_facts, 'lr = 0.003' in ul.TrainConfig.__doc__, len(CLAIMS))"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    file, n_facts, explained, n_claims = done.stdout.split()
    assert Path(file).parent == tmp_path / "unifylens"
    assert (n_facts, explained) == ("4800", "True") and int(n_claims) > 0
