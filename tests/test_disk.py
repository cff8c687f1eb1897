"""Runs on a disk that others use, that fails, or on which things lie where they do not belong: nothing is mixed up."""

import errno
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import assert_equal_runs, quietly, tiny, weights

import unifylens as ul
from unifylens.training import disk, progress, store
from unifylens.training import run as runs
from unifylens.training.trainer import _Stack

WRONG = "no run: under the key of another experiment"
SHORT = {"train.steps": 10}
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture
def two():
    """Runs of seeds 0 and 1."""
    return list(ul.sweep(tiny(**SHORT), over={"seed": range(2)}, progress=False))


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def swap(one, other):
    scratch = one.with_name("scratch")
    one.rename(scratch), other.rename(one), scratch.rename(other)


def copy_over(one, other):
    shutil.rmtree(one)
    shutil.copytree(other, one)


# --- whose run it is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", [swap, copy_over])
def test_a_run_under_the_key_of_another_is_set_aside_and_not_used(two, mix):
    total, history = float(weights(two[0])["unembed.W_U"].sum()), two[0].history
    mix(two[0].folder, two[1].folder)
    states = store.runs()["state"].tolist()
    assert sorted(states) == ["intact", WRONG][mix is swap :] + [WRONG] * (mix is swap)
    with pytest.warns(
        UserWarning, match=r"is damaged \(it is the run of another experiment\); it is now \w+\.set-aside"
    ):
        again = quietly(two[0].experiment)[0]
    assert float(weights(again)["unembed.W_U"].sum()) == total and again.history.equals(history)
    (aside,) = again.folder.parent.glob("*.set-aside-*")
    assert len(files(aside)) == 4


def test_a_run_that_is_at_hand_is_not_read_from_what_took_its_place(two):
    first, second = two
    first_weights = weights(first)
    swap(first.folder, second.folder)
    again = runs.Run(first.experiment, first.folder)
    told = r"not what it was when it was loaded \(it is the run of another experiment\)"
    for read in (lambda: first.parameters(10), lambda: first.model, lambda: again.history, lambda: again.diverged_at):
        with pytest.raises(OSError, match=told):
            read()
    assert "cannot be read" in repr(again)
    swap(first.folder, second.folder)
    assert all(torch.equal(p, first_weights[name]) for name, p in first.parameters(10).items()), "it is back"


def test_a_run_whose_file_is_replaced_while_it_is_at_hand_is_checked_again(two):
    path = two[0].folder / "weights.safetensors"
    shutil.copy2(two[1].folder / path.name, path)
    with pytest.raises(OSError, match=r"weights\.safetensors does not match its checksum"):
        two[0].parameters(10)


def test_a_run_whose_file_is_a_link_is_checked_again_when_the_link_leads_to_another(two, tmp_path):
    for number, run in enumerate(two):
        (run.folder / "weights.safetensors").rename(tmp_path / str(number))
    (two[0].folder / "weights.safetensors").symlink_to(tmp_path / "0")
    expected = weights(two[0])
    assert all(torch.equal(p, expected[name]) for name, p in two[0].parameters(10).items())
    swap(tmp_path / "0", tmp_path / "1")
    with pytest.raises(OSError, match=r"weights\.safetensors does not match its checksum"):
        two[0].parameters(10)


def test_a_run_whose_file_is_written_to_is_checked_again_whatever_its_time_says(two):
    path, other = (run.folder / "weights.safetensors" for run in two)
    weights(two[0])
    before = path.stat()
    with path.open("r+b") as file:
        file.write(other.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(OSError, match=r"weights\.safetensors does not match its checksum"):
        two[0].parameters(10)


@pytest.mark.parametrize("read", [lambda r: r.parameters(10), lambda r: r.history, lambda r: r.diverged_at])
def test_a_run_that_goes_while_it_is_read_is_told_in_a_sentence(two, monkeypatch, read):
    run, check = runs.Run(two[0].experiment, two[0].folder), runs.Run._file

    def check_then_lose(self, name):
        path = check(self, name)
        shutil.rmtree(self.folder, ignore_errors=True)
        return path

    monkeypatch.setattr(runs.Run, "_file", check_then_lose)
    with pytest.raises(FileNotFoundError, match=r"is no longer in .*trains it again"):
        read(run)


@pytest.mark.parametrize("name", runs.FILES)
def test_a_pipe_in_place_of_a_file_is_damage_and_not_waited_for(two, name):
    path = two[0].folder / name
    path.unlink()
    os.mkfifo(path)
    assert store.runs()["state"].tolist().count("intact") == 1
    with pytest.warns(UserWarning, match=f"{name} is no file"):
        assert store.load(two[0].experiment) is None


def test_a_run_of_an_older_format_under_a_newer_key_is_not_used(two, monkeypatch):
    old = two[0].folder
    monkeypatch.setattr(runs, "DATA_FORMAT", runs.DATA_FORMAT + 1)
    shutil.copytree(old, store.folder_of(two[0].experiment))
    with pytest.warns(UserWarning, match="the run of another experiment"):
        assert store.load(two[0].experiment) is None


def test_runs_are_read_whose_manifest_and_experiment_are_as_they_always_were(two):
    manifest = (two[0].folder / "manifest.json").read_text()
    assert (
        re.sub(r"[0-9a-f]{64}", "*", manifest).split()
        == (
            '{ "format": 3, "diverged_at": null, "sha256": { "weights.safetensors": "*", "history.parquet": "*", '
            '"experiment.json": "*", "manifest.json": "*" } }'
        ).split()
    )


# --- whose progress it is ------------------------------------------------------------------------------------


@pytest.fixture
def stopped(press_ctrl_c):
    """Two interrupted stacks of one shape, of seeds 0 and 1."""
    press_ctrl_c.at = (16, 17)
    for seed in range(2):
        with pytest.raises(KeyboardInterrupt):
            quietly(tiny(seed=seed))
    press_ctrl_c.at = None
    press_ctrl_c.steps.clear()
    return [progress.Progress([tiny(seed=seed)]).path for seed in range(2)]


def retype(path):
    path.write_bytes(path.read_bytes().replace(b'"F32"', b'"I32"', 1))


def reshape(path):
    data = path.read_bytes()
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    shape = re.search(rb'"shape":\[(\d+,\d+,\d+)\]', header)[1]
    path.write_bytes(data.replace(shape, b",".join(reversed(shape.split(b","))), 1))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda one, other: swap(one, other), "is that of other experiments"),
        (lambda one, other: shutil.copy2(other, one), "is that of other experiments"),
        (lambda one, other: retype(one), "is damaged"),
        (lambda one, other: reshape(one), "is damaged"),
        (lambda one, other: (one.unlink(), one.mkdir()), "is no file"),
        (lambda one, other: (one.unlink(), os.mkfifo(one)), "is no file"),
    ],
    ids=["swap", "copy", "type", "shape", "folder", "pipe"],
)
def test_a_wrong_progress_file_is_set_aside_and_not_used(stopped, trained, press_ctrl_c, damage, told):
    damage(*stopped)
    with pytest.warns(UserWarning, match=rf"interrupted training {stopped[0].name} {told}; it starts anew"):
        run = quietly(tiny())[0]
    assert_equal_runs(run, trained)
    assert press_ctrl_c.steps[0] == (16, 0) and len(list(stopped[0].parent.glob("*.set-aside-*"))) == 1


def test_progress_that_an_earlier_version_saved_is_told_and_not_used(stopped, monkeypatch):
    monkeypatch.setattr(progress, "FORMAT", progress.FORMAT + "0")
    with pytest.warns(UserWarning, match="was saved by another version of unifylens; it starts anew"):
        assert progress.Progress([tiny()]).load() is None


def test_progress_with_other_tensors_than_the_stack_has_is_not_used(stopped, trained):
    saved = progress.Progress([tiny()])
    tensors, state = saved.load()
    tensors["parameter/unembed.W_U"] = tensors["parameter/unembed.W_U"][..., :-1]
    saved.save(tensors, state)
    with pytest.warns(UserWarning, match="holds other tensors than this stack has"):
        assert_equal_runs(quietly(tiny())[0], trained)


# --- a disk that fails ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("name", runs.FILES)
def test_a_read_error_is_told_and_nothing_is_touched(two, monkeypatch, name, number):
    before = files(two[0].folder.parent)
    read = Path.open

    def fail(self, *arguments, **options):
        if self == two[0].folder / name:
            raise OSError(number, os.strerror(number))
        return read(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        for call in (store.load, quietly):
            with pytest.raises(OSError, match=rf"{two[0].folder} cannot be read \({os.strerror(number)}\)") as told:
                call(two[0].experiment)
            assert told.value.errno == number
    assert files(two[0].folder.parent) == before and store.load(two[0].experiment)


def test_a_read_error_of_progress_is_told_and_nothing_is_touched(stopped, monkeypatch):
    before, read = files(stopped[0].parent), Path.open

    def fail(self, *arguments, **options):
        if self == stopped[0]:
            raise OSError(errno.EIO, "Input/output error")
        return read(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        with pytest.raises(OSError, match=rf"{stopped[0]} cannot be read \(Input/output error\). Nothing was changed"):
            quietly(tiny())
    assert files(stopped[0].parent) == before


def test_a_damaged_run_is_set_aside_with_what_the_user_put_there(two, empty_store):
    folder = two[0].folder
    (folder / "notes.txt").write_text("mine")
    assert store.load(two[0].experiment), "more files do no harm"
    (folder / "history.parquet").write_bytes(b"")
    before = files(folder)
    told = (
        rf"run {folder.name} in {folder.parent} is damaged \(history.*\); it is now ({folder.name}\.set-aside-\w+) and"
    )
    with pytest.warns(UserWarning, match=told) as caught:
        quietly(two[0].experiment)
    aside = folder.parent / re.search(told, str(caught[0].message))[1]
    assert files(aside) == before
    states = store.runs().set_index("key")["state"]
    assert states[aside.name] == "set aside: holds more than a run: notes.txt" and states[folder.name] == "intact"
    store.clear(everything=True)
    assert files(empty_store) == {f"runs/{aside.name}/{name}": data for name, data in before.items()}


def test_what_was_set_aside_is_listed_and_cleared_where_it_is_ours(two):
    (two[0].folder / "history.parquet").write_bytes(b"")
    with pytest.warns(UserWarning):
        assert store.load(two[0].experiment) is None
    row = store.runs().set_index("seed").loc[0]
    assert row["state"] == "set aside: damaged: history.parquet does not match its checksum" and row["ours"]
    assert store.clear(row["key"])["key"].tolist() == [row["key"]] and len(store.runs()) == 1


def test_a_store_that_cannot_be_listed_is_told(two, monkeypatch, empty_store):
    def fail(folder):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "listdir", fail)
    with pytest.raises(PermissionError, match=rf"{empty_store}/runs cannot be read \(Permission denied\)"):
        store.runs()


def test_a_run_that_another_process_clears_meanwhile_is_not_listed(two, monkeypatch):
    look = store._run_at

    def slow(path):
        item = look(path)
        if path == two[0].folder:
            shutil.rmtree(path)
        return item

    monkeypatch.setattr(store, "_run_at", slow)
    assert store.runs()["seed"].tolist() == [1] and len(store.clear(everything=True)) == 1


# --- what lies in the way ------------------------------------------------------------------------------------


def put_folder(place):
    place.mkdir(parents=True)
    (place / "mine").mkdir()
    (place / "mine" / "weights.safetensors").write_text("mine")


@pytest.mark.parametrize(
    ("put", "told"),
    [
        (lambda place: place.write_text("mine"), "a file where a folder should be"),
        (lambda place: place.symlink_to("nowhere"), "a link to nothing"),
        (put_folder, "manifest.json cannot be read: FileNotFoundError"),
        (lambda place: place.mkdir(), "manifest.json cannot be read: FileNotFoundError"),
    ],
    ids=["file", "link", "folder", "empty folder"],
)
def test_what_lies_at_the_place_of_a_run_is_told_once_and_set_aside(put, told, empty_store):
    place = store.folder_of(tiny(**SHORT))
    place.parent.mkdir(parents=True)
    put(place)
    before = files(place.parent)
    with pytest.warns(UserWarning, match=re.escape(f"is damaged ({told})")) as caught:
        run = quietly(tiny(**SHORT))[0]
    assert len(caught) == 1 and run.final["step"] == 10 and not place.is_symlink()
    (aside,) = place.parent.glob("*.set-aside-*")
    assert aside.is_symlink() == (told == "a link to nothing")
    kept = {path.replace(aside.name, place.name): text for path, text in files(place.parent).items() if ".set" in path}
    assert kept == before
    assert not store.runs().set_index("key").loc[aside.name, "ours"]


def test_a_link_to_the_right_run_is_used(two, tmp_path):
    folder = two[0].folder
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert_equal_runs(quietly(two[0].experiment)[0], two[0])


def test_what_another_process_puts_there_while_a_damaged_run_is_looked_at_is_kept(two, monkeypatch):
    """The folder is replaced by a whole one between the look and the renaming."""
    folder, whole = two[0].folder, two[0].folder.with_name("whole")
    shutil.copytree(folder, whole)
    (folder / "history.parquet").write_bytes(b"")
    damage = runs.damage

    def slow(place, *arguments):
        problem = damage(place, *arguments)
        if whole.exists():
            shutil.rmtree(folder)
            whole.rename(folder)
        return problem

    monkeypatch.setattr(runs, "damage", slow)
    assert_equal_runs(store.load(two[0].experiment), two[0])
    assert not list(folder.parent.glob("*.set-aside-*"))


def test_a_run_that_another_process_saved_meanwhile_is_kept(two):
    before = files(two[0].folder)
    again = store.save(two[0].experiment, two[1].history, {0: {"a": torch.zeros(1)}})
    assert files(two[0].folder) == before and again.steps == two[0].steps


# --- a home that cannot be written ---------------------------------------------------------------------------


@pytest.fixture
def no_step(monkeypatch):
    """Nothing may be trained."""
    monkeypatch.setattr(_Stack, "__init__", lambda *_: pytest.fail("training began"))


@pytest.mark.parametrize("way", ["home", "parent", "runs", "interrupted"])
def test_a_file_in_the_way_of_the_home_is_told_before_training(no_step, tmp_path, monkeypatch, way):
    home = tmp_path / "a" / "home"
    file = {"home": home, "parent": home.parent, "runs": home / "runs", "interrupted": home / "interrupted"}[way]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("mine")
    monkeypatch.setenv("UNIFYLENS_HOME", str(home))
    with pytest.raises(
        OSError, match=rf"cannot be made: {file} is a file, not a folder. Set UNIFYLENS_HOME to a folder"
    ):
        quietly(tiny())
    assert file.read_text() == "mine"


def test_a_home_that_is_a_link_to_nothing_is_told_before_training(no_step, tmp_path, monkeypatch):
    (tmp_path / "home").symlink_to(tmp_path / "nowhere" / "there")
    monkeypatch.setenv("UNIFYLENS_HOME", str(tmp_path / "home"))
    with pytest.raises(OSError, match=r"home is a link to nothing, not a folder"):
        quietly(tiny())


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EROFS, "that you may write to"),
        (errno.EACCES, "that you may write to"),
        (errno.ENOSPC, "Make space there"),
    ],
)
def test_a_home_that_cannot_be_written_is_told_before_training(no_step, monkeypatch, empty_store, number, remedy):
    def fail(self, data):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match=rf"{empty_store}/runs cannot be written .*{remedy}") as told:
        quietly(tiny())
    assert told.value.errno == number and not list(empty_store.rglob(".*"))


def test_a_home_of_a_user_that_does_not_exist_is_told(monkeypatch):
    monkeypatch.setenv("UNIFYLENS_HOME", "~no such user/runs")
    with pytest.raises(
        ValueError, match="UNIFYLENS_HOME is '~no such user/runs'; allowed: a folder, and after ~ a slash"
    ):
        quietly(tiny())


# --- other users ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_the_umask_says_who_may_read(umask, empty_store):
    before = os.umask(umask)
    try:
        run = quietly(tiny(**SHORT))[0]
        saved = progress.Progress([tiny()])
        saved.save({"a": torch.zeros(1)}, {})
    finally:
        os.umask(before)
    folders = [run.folder, run.folder.parent, saved.path.parent, empty_store]
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o777 & ~umask}
    assert {path.stat().st_mode & 0o777 for path in (saved.path, *run.folder.iterdir())} == {0o666 & ~umask}


@pytest.fixture
def home_for_all(monkeypatch):
    """A store outside of pytest's folders, which are the user's alone."""
    with tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0o755)
        monkeypatch.setenv("UNIFYLENS_HOME", home)
        yield home


def digest(run):
    return hashlib.sha256(b"".join(p.numpy().tobytes() for p in weights(run).values())).hexdigest()


def told_to_another_user(experiments):
    """What a child of this process, as another user, is told when it trains each of the experiments."""
    receive, send = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([]), os.setgid(65534), os.setuid(65534)
            for experiment in experiments:
                try:
                    told = digest(quietly(experiment)[0])
                except PermissionError as error:
                    told = str(error)
                os.write(send, f"{told}\n".encode())
        finally:
            os._exit(0)
    os.close(send)
    with open(receive, encoding="utf-8") as pipe:
        lines = pipe.read().splitlines()
    os.waitpid(child, 0)
    return lines


@pytest.mark.skipif(not IS_ROOT, reason="only root may become another user")
def test_another_user_reads_a_shared_home_and_is_told_what_may_not_be_done(home_for_all):
    umask = os.umask(0o022)
    try:
        shared, hidden, damaged = quietly(*(tiny(seed=seed, **SHORT) for seed in range(3)))
    finally:
        os.umask(umask)
    hidden.folder.chmod(0o700)
    (damaged.folder / "history.parquet").write_bytes(b"")
    asked = [shared.experiment, hidden.experiment, damaged.experiment, tiny(seed=3)]
    read, unreadable, in_the_way, unwritable = told_to_another_user(asked)
    assert read == digest(shared)
    assert "cannot be read (Permission denied)" in unreadable and "chmod -R a+rX" in unreadable
    assert "is in the way and cannot be renamed (Permission denied). Move it by hand" in in_the_way
    assert f"{home_for_all}/runs cannot be written (Permission denied)" in unwritable
    assert "Set UNIFYLENS_HOME" in unwritable


# --- what killed processes leave -----------------------------------------------------------------------------


def scratch(folder, name, age=0.0):
    """A folder in which something was being written."""
    path = folder / name
    path.mkdir(parents=True)
    (path / "weights.safetensors").write_bytes(b"half")
    now = path.stat().st_mtime
    os.utime(path, (now - age, now - age))
    return path


def test_scratch_of_the_dead_goes_at_the_next_save_and_of_the_living_stays(two):
    runs_folder, key, day = two[0].folder.parent, two[0].folder.name, disk.SECONDS_OF_OTHERS
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    place, parent = disk._place(), os.getppid()
    gone = [
        scratch(runs_folder, f".{key}.{place}-{dead.pid}-00000000"),
        scratch(runs_folder, f".{key}.00000000-{parent}-00000000", age=2 * day),
    ]
    stays = [
        scratch(runs_folder, f".{key}.{place}-{parent}-00000000", age=2 * day),
        scratch(runs_folder, f".{key}.00000000-{dead.pid}-00000000"),
        scratch(runs_folder, f".{key}-20261101", age=2 * day),  # a user's backup
        scratch(runs_folder, ".git", age=2 * day),
    ]
    mine = scratch(runs_folder, f".{key}.{place}-{dead.pid}-00000001")
    (mine / "notes.txt").write_text("mine")
    quietly(tiny(seed=2, **SHORT))
    assert not any(path.exists() for path in gone)
    assert all(files(path) == {"weights.safetensors": b"half"} for path in stays)
    assert files(mine) == {"weights.safetensors": b"half", "notes.txt": b"mine"}, "all of it or nothing"


def test_half_a_run_is_never_read(two):
    folder = two[0].folder
    (folder / "manifest.json").unlink()
    folder.rename(folder.with_name(f".{folder.name}.00000000-1-00000000"))
    assert store.load(two[0].experiment) is None and len(store.runs()) == 1


def test_a_file_that_arrives_while_a_run_is_cleared_is_kept_with_the_run(two, monkeypatch):
    before, remove = files(two[0].folder), disk.remove_folder
    monkeypatch.setattr(disk, "remove_folder", lambda f: ((f / "notes.txt").write_text("mine"), remove(f)))
    with pytest.raises(OSError, match=rf"{two[0].folder.name}: .*cannot be deleted"):
        store.clear(two[0])
    assert files(two[0].folder) == before | {"notes.txt": b"mine"} and len(store.runs()) == 2


def test_what_cannot_be_deleted_stays_whole_and_is_told_with_what_went(two, monkeypatch):
    stays, goes = sorted(two, key=lambda run: run.folder.name)
    before, unlink = files(stays.folder), os.unlink

    def fail(path, **options):
        if stays.folder.name in str(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", fail)
    with pytest.raises(OSError, match=rf"{stays.folder.name}: .*Deleted were: {goes.folder.name}\."):
        store.clear(everything=True)
    assert files(stays.folder) == before and not goes.folder.exists() and not list(stays.folder.parent.glob(".*"))


def as_user(number, act, umask=0o022):
    """Do something as another user, in a process of its own; what it says, or what was raised."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.umask(umask), os.setgroups([5000]), os.setgid(number), os.setuid(number)
            said = str(act())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(into, said.encode())
        os._exit(0)
    os.close(into)
    with open(out, encoding="utf-8") as file:
        said = file.read()
    os.waitpid(child, 0)
    return said


@pytest.fixture
def shared(monkeypatch):
    """Makes a home's folders for several users, with these rights."""
    if not IS_ROOT:
        pytest.skip("only root may become another user")
    home = Path(tempfile.mkdtemp())
    home.chmod(0o755)
    monkeypatch.setenv("UNIFYLENS_HOME", str(home))

    def make(rights):
        for name in ("runs", "interrupted"):
            (home / name).mkdir()
            os.chown(home / name, -1, 5000)
            (home / name).chmod(rights)
        return home

    yield make
    shutil.rmtree(home)


def save_small(seed):
    """A run of one's own, without training."""
    return store.save(tiny(seed=seed), pd.DataFrame({"step": [0]}), {0: {"a": torch.zeros(1)}})


@pytest.mark.parametrize("rights", [0o2777, 0o1777], ids=["group", "sticky"])
def test_runs_of_other_users_are_not_cleared_and_nothing_else_before_them(shared, rights):
    home = shared(rights)
    others, own = (as_user(1001 + seed, lambda seed=seed: save_small(seed).folder.name) for seed in range(2))
    before = files(home)
    told = as_user(1002, lambda: store.clear(everything=True))
    assert told.startswith("ValueError") and f"{others!r}" in told and "another user" in told, told
    assert files(home) == before
    assert own in as_user(1002, lambda: store.clear(own)["key"].tolist())
    assert {name.split("/")[1] for name in files(home)} == {others}


def test_a_private_run_of_another_user_is_listed_and_hinders_nobody(shared):
    shared(0o2777)
    as_user(1001, lambda: save_small(0), umask=0o077)
    own = as_user(1002, lambda: save_small(1).folder.name)
    table = as_user(1002, lambda: store.runs()["state"].tolist())
    assert "no run: cannot be read (PermissionError)" in table and "intact" in table
    assert int(as_user(1002, store.size)) > 0
    assert own in as_user(1002, lambda: store.clear(everything=True)["key"].tolist())
    assert len(store.runs()) == 1
