"""Notebooks are run by this Python, saved only when they ran through, and saved the same every time."""

import json
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from unifylens import reproduce
from unifylens.evidence.records import README_END, README_START


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project in a folder with a space in its name."""
    folder = tmp_path / "my project"
    (folder / "notebooks").mkdir(parents=True)
    (folder / "README.md").write_text(f"# title\n{README_START}\n{README_END}\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("UNIFYLENS_PROFILE", "quick")
    monkeypatch.delenv("UNIFYLENS_FIGURES", raising=False)
    return folder


def write(project, name, *sources):
    notebook = new_notebook(cells=[new_markdown_cell("# A question"), *map(new_code_cell, sources)])
    notebook.metadata = {
        "kernelspec": {"name": "no-such-kernel", "display_name": "Mine", "language": "python"},
        "language_info": {"name": "python", "version": "3.0.0"},
        "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}}},
    }
    notebook.cells[1].metadata = {
        "tags": ["kept"],
        "execution": {"iopub.status.busy": "2020"},
        "collapsed": True,
    }
    path = project / "notebooks" / name
    nbformat.write(notebook, path)
    return path


def test_a_notebook_that_runs_is_saved_the_same_every_time(project, capsys):
    path = write(
        project,
        "00_tiny.ipynb",
        "import os, sys\nfrom tqdm.auto import tqdm\nfor i in tqdm(range(3)):\n    print(i)",
        "print(os.path.basename(os.getcwd()), os.environ['UNIFYLENS_PROFILE'], file=sys.stdout)",
        "open('../python', 'w').write(sys.executable);",
        "1 + 1",
    )
    assert reproduce.main([]) == 0
    first = path.read_bytes()
    saved = json.loads(first)
    assert saved["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    code = saved["cells"][1:]
    assert [c["metadata"] for c in code] == [{"tags": ["kept"]}, {}, {}, {}]
    assert [c["execution_count"] for c in code] == [1, 2, 3, 4]
    assert ["".join(o["text"]) for c in code[:2] for o in c["outputs"]] == ["0\n1\n2\n", "notebooks quick\n"]
    assert code[3]["outputs"][0]["data"] == {"text/plain": ["2"]}
    assert (project / "python").read_text() == sys.executable
    assert "unifylens: 1 notebooks in 0." in capsys.readouterr().out
    assert reproduce.main(["00"]) == 0
    assert path.read_bytes() == first


def test_a_notebook_that_fails_is_left_as_it_was(project, capsys):
    path = write(project, "00_fails.ipynb", "x = 1", "raise RuntimeError('no luck')", "x = 2")
    later = write(project, "01_later.ipynb", "x = 1")
    before, before_later = path.read_bytes(), later.read_bytes()
    assert reproduce.main([]) == 1
    assert (path.read_bytes(), later.read_bytes()) == (before, before_later)
    assert "stopped at 00_fails.ipynb, code cell 2: RuntimeError: no luck" in capsys.readouterr().err
    assert sorted(p.name for p in path.parent.iterdir()) == ["00_fails.ipynb", "01_later.ipynb"]


def test_a_claim_that_does_not_hold_fails_the_run_and_is_shown(project, capsys):
    write(project, "01_the_dish.ipynb", "x = 1")
    record = "from unifylens.evidence.claims import record\nrecord('C3', effect=[0, 0.1], control=[0, 0], seeds=[0, 1])"
    write(project, "02_other.ipynb", record)
    assert reproduce.main(["01", "02"]) == 1
    out = capsys.readouterr().out
    assert "claims not recorded: C1\n" in out and "claims not holding: C3\n" in out
    assert "0 of 2 claims hold" in out
    assert "| **no** |" in (project / "README.md").read_text()


def test_an_unknown_notebook_is_named(project, capsys):
    write(project, "00_tiny.ipynb", "x = 1")
    with pytest.raises(SystemExit):
        reproduce.main(["07"])
    assert "no notebook 07 among: 00_tiny.ipynb" in capsys.readouterr().err
