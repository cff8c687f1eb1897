"""Notebooks are run by this Python; what the project ships changes only when published, and not by turning a dial."""

import ast
import asyncio
import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import nbformat
import psutil
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from unifylens import reproduce
from unifylens.evidence.ledger import CLAIMS
from unifylens.evidence.records import README_END, README_START

ROOT = Path(__file__).parents[1]
DRAW = """
from unifylens.environment import figures_dir
from unifylens.evidence.claims import expect, record
figures_dir().mkdir(parents=True, exist_ok=True)
(figures_dir() / "a_figure.csv").write_text("mine")
"""
JUDGE = "c1 = record('C1', effect=[{0}, {0}], control=[0, 0], seeds=[0, 1])\nc1.check()"
SHIPPED = "C1           shipped 0.94 [0.93, 0.95] held, "


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project in a folder with a space in its name."""
    folder = tmp_path / "my project"
    (folder / "notebooks").mkdir(parents=True)
    (folder / "pyproject.toml").write_text('[project]\nname = "unifylens"\n')
    (folder / "README.md").write_text(f"# title\n{README_START}\n{README_END}\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("UNIFYLENS_PROFILE", "quick")
    monkeypatch.delenv("UNIFYLENS_FIGURES", raising=False)
    monkeypatch.setenv("UNIFYLENS_REPORTED", "0")
    return folder


@pytest.fixture
def shipped(project):
    """The project with two notebooks, of which one judges C1, and with what it found before."""
    write(project, "00_look.ipynb", DRAW)
    write(project, "01_the_dish.ipynb", DRAW, JUDGE.format(0.9))
    (project / "figures").mkdir()
    (project / "figures/a_figure.csv").write_text("ours")
    records = json.loads((ROOT / "figures/claims.json").read_text())
    records[0] |= {"effect": 0.94, "ci_low": 0.93, "ci_high": 0.95}
    (project / "figures/claims.json").write_text(json.dumps(records[:2]))
    return project


def files(project):
    """All files of the project but those that git ignores, byte for byte."""
    paths = [p for p in project.rglob("*") if p.is_file() and p.relative_to(project).parts[0] != "build"]
    return {str(p.relative_to(project)): p.read_bytes() for p in paths}


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
    before = path.read_bytes()
    assert reproduce.main([]) == 0
    assert path.read_bytes() == before
    path = project / "build/notebooks/00_tiny.ipynb"
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


def test_a_notebook_that_fails_is_left_as_it_was(project, capsys, monkeypatch):
    monkeypatch.setattr(reproduce, "side_by_side", lambda n: (1, {}))
    path = write(project, "00_fails.ipynb", "x = 1", "raise RuntimeError('no luck')", "x = 2")
    later = write(project, "01_later.ipynb", "x = 1")
    before, before_later = path.read_bytes(), later.read_bytes()
    assert reproduce.main([]) == 1
    assert (path.read_bytes(), later.read_bytes()) == (before, before_later)
    assert "stopped at 00_fails.ipynb, code cell 2: RuntimeError: no luck" in capsys.readouterr().err
    assert sorted(p.name for p in path.parent.iterdir()) == ["00_fails.ipynb", "01_later.ipynb"]
    assert list((project / "build").iterdir()) == [project / "build/figures"]


def test_a_claim_that_disagrees_with_the_record_fails_the_run_and_is_shown(project, capsys):
    write(project, "01_the_dish.ipynb", "x = 1")
    record = "from unifylens.evidence.claims import record\nrecord('C8', effect=[0, 0.1], control=[0, 0], seeds=[0, 1])"
    write(project, "02_other.ipynb", record)
    assert reproduce.main(["01", "02", "--publish"]) == 1
    out = capsys.readouterr().out
    assert "C1           shipped nothing, yours NOT recorded by 01_the_dish" in out
    assert re.search(r"C8           shipped nothing, yours 0.05 \[.*\] not held \(2 seeds, quick\): DISAGREES\n", out)
    assert "unifylens: C8 NOT held: score with 60 % minus score without" in out
    assert "C9           shipped nothing, not run\n" in out
    assert "0 of 2 claims agree with the record" in out
    assert re.search(r"\| C8 0.05 \[.*\] \*\*not held\*\* \|", (project / "README.md").read_text())


def test_an_honest_miss_that_is_recorded_fails_nothing(project, monkeypatch, capsys):
    monkeypatch.setitem(CLAIMS, "C8", replace(CLAIMS["C8"], verdict="not held"))
    record = "from unifylens.evidence.claims import record\nrecord('C8', effect=[0, 0.1], control=[0, 0], seeds=[0, 1])"
    write(project, "03_other.ipynb", record)
    assert reproduce.main([]) == 0
    out = capsys.readouterr().out
    assert "not held (2 seeds, quick): agrees" in out and "1 of 1 claims agree with the record" in out


MEET = """
import time
from pathlib import Path
def meet(mine, other):
    Path(mine).touch()
    end = time.monotonic() + 60
    while not Path(other).exists():
        assert time.monotonic() < end, "nobody came"
        time.sleep(0.05)
"""
PID = "import os, pathlib; pathlib.Path('pid').write_text(str(os.getpid()))"


@pytest.fixture
def two_slots(monkeypatch):
    monkeypatch.setattr(reproduce, "side_by_side", lambda n: (2, {"LOKY_MAX_CPU_COUNT": "1"}))


def test_two_notebooks_run_side_by_side_on_one_core_each(project, two_slots):
    one_core = "import joblib\nassert joblib.cpu_count() == 1"
    write(project, "00_one.ipynb", MEET, one_core, "meet('one', 'other')")
    write(project, "01_other.ipynb", MEET, one_core, "meet('other', 'one')")
    assert reproduce.main([]) == 0


def test_one_that_fails_stops_the_other_and_what_was_recorded_is_kept(project, two_slots, capsys):
    write(project, "00_one.ipynb", MEET, DRAW, JUDGE.format(0.9), PID, "meet('one', 'never')")
    write(project, "01_fails.ipynb", MEET, "meet('other', 'one')", "raise RuntimeError('no luck')")
    write(project, "02_later.ipynb", "x = 1")
    assert reproduce.main([]) == 1
    output = capsys.readouterr()
    assert "stopped at 01_fails.ipynb, code cell 3: RuntimeError: no luck" in output.err
    assert re.search(r"yours 0.90 .* held.*: agrees \(about \d+ min left\)", output.out.partition("\n\n")[0])
    assert [entry["id"] for entry in json.loads((project / "build/figures/claims.json").read_text())] == ["C1"]
    assert [path.name for path in (project / "build").iterdir()] == ["figures"]
    assert not psutil.pid_exists(int((project / "notebooks/pid").read_text()))


def test_ctrl_c_leaves_no_kernel_and_keeps_what_was_recorded(project, two_slots):
    write(project, "00_one.ipynb", DRAW, JUDGE.format(0.9), PID, "import time; time.sleep(60)")
    pid = project / "notebooks/pid"

    def press():
        while not (pid.exists() and pid.read_text()):
            time.sleep(0.05)
        signal.raise_signal(signal.SIGINT)

    given = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        reproduce.main([])
    assert signal.signal(signal.SIGINT, given) is signal.default_int_handler
    assert not psutil.pid_exists(int(pid.read_text()))
    assert [path.name for path in (project / "build").iterdir()] == ["figures"]
    assert (project / "build/figures/claims.json").exists()


@pytest.mark.parametrize(("long", "transport"), [(False, "ipc"), (True, "tcp")])
def test_a_kernel_needs_no_port_that_another_process_may_take(project, monkeypatch, long, transport):
    if long:
        (folder := project / ("a_long_name" * 10)).mkdir()
        monkeypatch.setattr(reproduce.tempfile, "tempdir", str(folder))
    kernel = reproduce.ThisInterpreter()
    assert kernel.transport == transport and Path(kernel.connection_file).parent.stat().st_mode & 0o077 == 0
    path = write(project, "00_one.ipynb", "from ipykernel.connect import get_connection_info as i; print(i())")
    asyncio.run(reproduce.execute(path, project / "saved.ipynb", project, {}, lambda share: None))
    info = json.loads(nbformat.read(project / "saved.ipynb", 4).cells[1].outputs[0].text)
    assert info["transport"] == transport
    del kernel
    gc.collect()
    assert not (list(folder.iterdir()) if long else Path(info["ip"]).parent.exists())


def test_a_kernel_ends_though_its_notebook_is_stopped_while_it_is_shut_down(project, monkeypatch):
    path, shut_down = write(project, "00_one.ipynb", PID), reproduce.ThisInterpreter.shutdown_kernel

    async def stop_at_the_end():
        began = asyncio.Event()

        async def begin(self):
            began.set()
            await shut_down(self)

        monkeypatch.setattr(reproduce.ThisInterpreter, "shutdown_kernel", begin)
        task = asyncio.create_task(reproduce.execute(path, project / "saved", project, {}, lambda share: None))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(stop_at_the_end())
    assert not psutil.pid_exists(int((project / "notebooks/pid").read_text())) and not (project / "saved").exists()


def test_a_notebook_waits_for_the_one_that_trains_its_models_and_the_longest_way_comes_first(project):
    names = ["00_quickstart", "01_the_dish", "02_phases", "03_unification_score", "05_activation_patching"]
    job = reproduce._Job([Path(f"{name}.ipynb") for name in names], project, project)
    started = []
    for ended in ("", "00_quickstart", "", "01_the_dish", ""):
        job.under_way.pop(ended, None)
        job.waiting.remove(path := job._next())
        job.under_way[path.stem] = path
        started.append(path.stem)
    assert started == ["00_quickstart", "01_the_dish", "05_activation_patching", "02_phases", "03_unification_score"]


def test_every_notebook_that_runs_by_default_has_a_time():
    names = {path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb") if "_real_" not in path.name}
    assert reproduce.SECONDS.keys() == names and {*reproduce.TRAINED_BY, *reproduce.TRAINED_BY.values()} <= names


@pytest.mark.parametrize(("cores", "gib", "slots"), [(1, 16, 1), (2, 16, 2), (2, 2, 1), (16, 64, 4)])
def test_slots_have_cores_and_memory(monkeypatch, cores, gib, slots):
    monkeypatch.setattr(reproduce.joblib, "cpu_count", lambda: cores)
    monkeypatch.setattr(reproduce.hardware, "free_bytes", lambda device=None: (gib if device is None else gpu) * 2**30)
    monkeypatch.setattr(reproduce.hardware, "device", lambda: torch.device("cpu"))
    count, own = reproduce.side_by_side(13)
    assert count == slots and set(own.values()) == ({str(cores // slots)} if slots > 1 else set())
    monkeypatch.setattr(reproduce.hardware, "device", lambda: torch.device("cuda"))
    for gpu, shared in ((8, 1), (24, 1), (48, 3), (80, 5)):  # noqa: B007 - read by `free_bytes`
        assert reproduce.side_by_side(13)[0] == min(slots, shared)


def test_an_unknown_notebook_is_named(project, capsys):
    write(project, "00_tiny.ipynb", "x = 1")
    with pytest.raises(SystemExit):
        reproduce.main(["07"])
    assert "no notebook 07 among: 00_tiny.ipynb" in capsys.readouterr().err


def test_reproduce_leaves_the_checkout_as_it_was_and_compares(shipped, capsys):
    before = files(shipped)
    assert reproduce.main([]) == 0
    assert files(shipped) == before
    build = shipped / "build"
    assert sorted(str(p.relative_to(build)) for p in build.rglob("*") if p.is_file()) == [
        *("figures/a_figure.csv", "figures/claims.json", "notebooks/00_look.ipynb", "notebooks/01_the_dish.ipynb")
    ]
    assert (build / "figures/a_figure.csv").read_text() == "mine"
    assert [entry["id"] for entry in json.loads((build / "figures/claims.json").read_text())] == ["C1"]
    while_running, at_end = capsys.readouterr().out.split("\n\n")
    line = SHIPPED + "yours 0.90 [0.90, 0.90] held (2 seeds, quick): agrees"
    assert re.sub("[0-9]+ min", "0 min", while_running) == f"{line} (about 0 min left)"
    lines = at_end.splitlines()
    assert lines[0] == line
    assert lines[1].startswith("C2           shipped ") and lines[1].endswith("] held, not run")
    assert len(lines) == len(CLAIMS) + 1 and "1 of 1 claims agree with the record" in lines[-1]


def test_publishing_renews_figures_notebooks_and_readme(shipped):
    before = files(shipped)
    assert reproduce.main(["--publish"]) == 0
    after = files(shipped)
    assert after.keys() == before.keys()
    assert {name for name in before if after[name] == before[name]} == {"pyproject.toml"}
    assert after["figures/a_figure.csv"] == b"mine"
    assert [entry["id"] for entry in json.loads(after["figures/claims.json"])] == ["C1", "C2"]
    assert b"| C1 0.90 [0.90, 0.90] |" in after["README.md"] and b"| C2 " in after["README.md"]
    assert list((shipped / "build").iterdir()) == []


def test_figures_go_where_the_user_says_and_are_then_not_published(shipped, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("UNIFYLENS_FIGURES", str(tmp_path / "elsewhere"))
    before = files(shipped)
    assert reproduce.main(["01"]) == 0
    assert sorted(p.name for p in (tmp_path / "elsewhere").iterdir()) == ["a_figure.csv", "claims.json"]
    with pytest.raises(SystemExit):
        reproduce.main(["--publish"])
    assert "--publish writes to" in capsys.readouterr().err
    assert files(shipped) == before


def test_a_claim_that_fails_stops_the_run_and_is_told_beside_the_shipped_one(shipped, capsys):
    write(shipped, "01_the_dish.ipynb", DRAW, JUDGE.format(0.4))
    before = files(shipped)
    assert reproduce.main([]) == 1
    output = capsys.readouterr()
    assert output.out.count(SHIPPED + "yours 0.40 [0.40, 0.40] not held (2 seeds, quick): DISAGREES") == 2
    assert "stopped at 01_the_dish.ipynb, code cell 2: AssertionError: C1 NOT held" in output.err
    assert files(shipped) == before


def by_hand(project, *command):
    """Run notebooks in a process of its own, as a user does who has set nothing."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "UNIFYLENS_REPORTED"))}
    return subprocess.run([sys.executable, "-m", *command], cwd=project, env=env, capture_output=True, text=True)


TURNED = (DRAW, JUDGE.format(0.4), "expect(False, 'a sentence of the text')\nprint('went on')")


def test_a_dial_turned_by_hand_stops_nothing_and_touches_nothing(shipped):
    path = write(shipped, "01_the_dish.ipynb", *TURNED)
    before = files(shipped)
    nbconvert = ("nbconvert", "--execute", "--allow-errors", "--ExecutePreprocessor.kernel_name=python3")
    done = by_hand(shipped, *nbconvert, "--to=notebook", "--output-dir=build", f"notebooks/{path.name}")
    assert done.returncode == 0, done.stderr
    cells = nbformat.read(shipped / "build/01_the_dish.ipynb", as_version=4).cells
    assert not [o for cell in cells for o in cell.get("outputs", []) if o.output_type == "error"]
    first, second = (next(o.text for o in cell.outputs if o.output_type == "stream") for cell in cells[2:])
    judged, reported = first.splitlines()
    assert judged.startswith("scratch: C1 is judged by its threshold but not in the record; written to ")
    assert reported.startswith("scratch: not as with the reported settings: C1 NOT held: recall minus transfer")
    assert second == "scratch: not as with the reported settings: a sentence of the text\nwent on\n"
    assert sorted(p.name for p in (shipped / "build/scratch").iterdir()) == ["a_figure.csv", "claims.json"]
    assert files(shipped) == before


def test_under_nbmake_a_notebook_must_find_what_it_reports(shipped):
    failing = write(shipped, "02_fails.ipynb", *TURNED)
    before = files(shipped)
    nbmake = ("pytest", "--nbmake", "--nbmake-kernel=python3", "-p", "no:cacheprovider", "-rA")
    done = by_hand(shipped, *nbmake, "notebooks/01_the_dish.ipynb", f"notebooks/{failing.name}")
    assert done.returncode == 1 and "1 failed, 1 passed" in done.stdout, done.stdout
    assert re.search("^PASSED .*01_the_dish", done.stdout, re.MULTILINE), done.stdout
    assert "C1 NOT held" in done.stdout.partition("02_fails")[2]
    assert (shipped / "build/figures/claims.json").exists() and not (shipped / "build/scratch").exists()
    assert files(shipped) == before


def test_notebooks_expect_and_never_assert():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                asserts = [n for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Assert)]
                assert not asserts, f"{path.name}: use ul.claims.expect, with which a reader may turn a dial"


def dotted(node):
    """Names of an expression such as `ul.store.runs`, outermost first; none if it is another one."""
    names = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return [node.id, *names] if isinstance(node, ast.Name) else []


def missing_names(path):
    """What a notebook asks of modules of ours that they do not have."""
    tree = ast.parse("\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"))
    scope, missing = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and "unifylens" in ast.unparse(node):
            exec(ast.unparse(node), scope)
    for chain in filter(None, map(dotted, ast.walk(tree))):
        value = scope.get(chain[0])
        for name in chain[1:]:
            if not isinstance(value, ModuleType):
                break
            if not hasattr(value, name):
                missing.add(".".join(chain))
                break
            value = getattr(value, name)
    return missing


def test_notebooks_ask_modules_for_what_they_have(project):
    """Also those on real models, which no test runs."""
    planted = write(
        project, "00_asks.ipynb", "from unifylens import pretrained, store\npretrained.SHIPPED\nstore.runs()"
    )
    assert missing_names(planted) == {"pretrained.SHIPPED"}
    assert not {path.name: names for path in (ROOT / "notebooks").glob("*.ipynb") if (names := missing_names(path))}


def test_notebooks_of_another_project_are_left_alone(project, capsys):
    path = write(project, "01_mine.ipynb", "x = 1")
    before = path.read_bytes()
    (project / "pyproject.toml").write_text('[project]\nname = "mine"\n')
    for options in ([], ["--publish"]):
        with pytest.raises(SystemExit):
            reproduce.main(options)
        assert "is not in a checkout of unifylens" in capsys.readouterr().err
    assert path.read_bytes() == before and not (project / "build").exists()
