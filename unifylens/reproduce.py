"""Execute the notebooks, side by side where there are cores, and say which claims agree with what is recorded.

`python -m unifylens.reproduce` runs all but those on real words and models, which need packages with weights;
`python -m unifylens.reproduce 01 02 --profile full` runs some. All is written under `build/`: figures and `claims.json`
to `build/figures`, the executed notebooks to `build/notebooks`. With `--publish`, for maintainers, they replace those
that the project ships (in the profile `full`, which has a folder of its own, the figures alone), and the README's
table of claims is renewed.
"""

import argparse
import asyncio
import math
import os
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

try:
    import ipykernel_launcher  # noqa: F401 - what the kernels run
    import nbformat
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError
except ImportError as error:
    problem = f"running notebooks needs {error.name}: pip install 'unifylens[notebooks]'"
    if __name__ == "__main__":
        sys.exit(f"unifylens: {problem}")
    raise ImportError(problem, name=error.name) from None
import joblib
from tqdm import tqdm

from unifylens import hardware
from unifylens.environment import (
    PROFILES,
    build_dir,
    figures_dir,
    is_checkout,
    profile,
    project_dir,
    published_dir,
    write_atomic,
)
from unifylens.evidence.ledger import CLAIMS
from unifylens.evidence.records import Record, comparison, load_records, save_records, update_readme

WIDGET = "application/vnd.jupyter.widget-view+json"

SECONDS = {
    "00_quickstart": 30,
    "01_the_dish": 198,
    "02_phases": 612,
    "03_unification_score": 54,
    "04_unification_and_transfer": 270,
    "05_activation_patching": 504,
    "06_language_subspace": 342,
    "07_informativeness": 258,
    "08_extractability": 318,
    "09_tokenization": 402,
    "10_turning_transfer_up_and_down": 156,
    "11_phase_diagram": 468,
    "14_how_far_it_holds": 462,
    "15_ways_to_align": 1680,
    "16_edits": 210,
    "17_influence": 240,
    "18_new_languages": 180,
    "90_use_unifylens_on_your_model": 24,
    "99_what_decides_it": 90,
}
"""What each notebook takes with one core, in order from an empty store (the minutes of the site's map)."""

TRAINED_BY = {
    "02_phases": "01_the_dish",
    "03_unification_score": "01_the_dish",
    "04_unification_and_transfer": "02_phases",
    "06_language_subspace": "04_unification_and_transfer",
    "10_turning_transfer_up_and_down": "08_extractability",
    "99_what_decides_it": "14_how_far_it_holds",
}
"""The notebook that trains models which another one reads. Started beside it, the other would wait for them."""

MOST_SLOTS = 4
"""Notebooks side by side: beyond, each gets more cores instead."""

KERNEL_BYTES, CORE_BYTES, GPU_BYTES = 2**30, 2**29, 2**34
"""Memory of a notebook, of each of its cores, which trains a stack, and of a GPU that notebooks share."""

SECONDS_TO_SAVE = 30.0
"""For a kernel that is stopped: it saves what it trains between two steps."""

LONGEST_SOCKET = 90
"""Bytes in the path of a file that is a socket, less what is added to it: systems allow 103 and more."""

SECONDS_OF_TRUST = 30
"""From the start, through which `SECONDS` tells more of the speed than what was seen."""


class NotebookError(Exception):
    """A notebook that did not run through."""


class ThisInterpreter(AsyncKernelManager):
    """Kernels of the running Python, whatever kernels the user's machine has installed.

    They are talked to through files in a folder of their own: ports, which are chosen before the kernel has them, are
    now and then taken in between, and it dies. Where files cannot be sockets, through ports.
    """

    transport_encryption = "auto"

    def __init__(self, **traits: Any) -> None:
        folder = tempfile.mkdtemp(prefix="unifylens-kernel-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        path = Path(folder, "kernel.json")
        sockets = os.name != "nt" and len(os.fsencode(path)) < LONGEST_SOCKET
        super().__init__(transport="ipc" if sockets else "tcp", connection_file=str(path), **traits)

    @property
    def kernel_spec(self) -> KernelSpec:
        """What starts a kernel."""
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
            metadata={"supported_encryption": "curve"},
            env={"TQDM_DISABLE": "1"},  # progress as text belongs in the terminal, not in the outputs
        )


async def execute(
    path: Path, saved: Path, figures: Path, own: dict[str, str], ran_cell: Callable[[float], None]
) -> None:
    """Run one notebook in a fresh kernel, in its own folder, and write it to `saved` if every cell ran.

    Its figures and claims go to `figures`; `own` is set in its environment. `ran_cell` is told, after each cell, the
    share of them that ran. A task that is cancelled interrupts its kernel, which saves what it trains, and ends it.

    Raises:
        NotebookError: if a cell fails or the kernel dies; nothing is then written to `saved`.
    """
    notebook = nbformat.read(path, as_version=4)
    kernel = ThisInterpreter(shutdown_wait_time=SECONDS_TO_SAVE)
    client = NotebookClient(notebook, km=kernel, timeout=None, record_timing=False, coalesce_streams=True)
    code_cells = [(index, cell) for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    env = os.environ | {"UNIFYLENS_FIGURES": str(figures)} | own
    try:
        # not nbclient's own set-up: its handlers of Ctrl-C know of one kernel only
        await kernel.start_kernel(
            cwd=str(path.parent), env=env, extra_arguments=["--HistoryManager.hist_file=:memory:"]
        )
        await client.async_start_new_kernel_client()
        for number, (index, cell) in enumerate(code_cells, start=1):
            try:
                await client.async_execute_cell(cell, index, execution_count=number)
            except CellExecutionError as error:
                raise NotebookError(f"{path.name}, code cell {number}: {error.ename}: {error.evalue}") from error
            except DeadKernelError as error:
                if asyncio.current_task().cancelling():  # nbclient takes this for the kernel's end
                    raise asyncio.CancelledError from None
                raise NotebookError(f"{path.name}, code cell {number}: the kernel died") from error
            ran_cell(number / len(code_cells))
    finally:
        if client.kc is not None:
            client.kc.stop_channels()
        if kernel.has_kernel:
            await _to_the_end(kernel.shutdown_kernel())
    _drop_volatile(notebook)
    write_atomic(saved, nbformat.writes(notebook) + "\n")


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for some work that a task which is cancelled still finishes: a kernel half shut down would stay."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def side_by_side(n_notebooks: int) -> tuple[int, dict[str, str]]:
    """How many notebooks run at a time, and what tells the kernel of each, by its environment, how many cores it has.

    No more than there is memory for, with room to spare, as kernels do not know of each other's plans. A GPU is shared:
    it trains what takes little of it, and waits while models are evaluated.
    """
    cores = joblib.cpu_count()
    slots = min(n_notebooks, cores, MOST_SLOTS, (hardware.free_bytes() - cores * CORE_BYTES) // KERNEL_BYTES)
    if (device := hardware.device()).type == "cuda":
        slots = min(slots, hardware.free_bytes(device) // GPU_BYTES)
    if slots < 2:
        return 1, {}
    own = str(math.ceil(cores / slots))
    return slots, dict.fromkeys(("LOKY_MAX_CPU_COUNT", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), own)


def _drop_volatile(notebook: nbformat.NotebookNode) -> None:
    """Remove all that differs from machine to machine or run to run but says nothing about the result."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({k: cell.metadata[k] for k in ("tags",) if k in cell.metadata})
        if "outputs" in cell:  # a saved widget, such as a progress bar, is an empty box
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]


class _Job:
    """All notebooks that were asked for: what of them is done, which claims are decided, and the time that is left."""

    def __init__(self, paths: Sequence[Path], saved: Path, figures: Path) -> None:
        self.waiting = list(paths)
        self.under_way: dict[asyncio.Task, Path] = {}
        self.ran: set[str] = set()
        """Names of notebooks that ran through or failed."""
        self.yours: dict[str, Record] = {}
        self.shipped = {r.id: r for r in load_records(published_dir())}
        self._saved, self._figures = saved, figures
        self._seconds = {path.stem: SECONDS.get(path.stem, max(SECONDS.values())) for path in paths}
        self._share = dict.fromkeys(self._seconds, 0.0)
        self._start = time.monotonic()
        self._bar = tqdm(
            total=sum(self._seconds.values()),
            bar_format="{percentage:3.0f}%|{bar:20}| {desc}",
            disable=None,  # unless it is a terminal, where it stays one line
        )

    async def run(self) -> None:
        """Run them, as many side by side as this machine can; those under way are stopped when one fails.

        Raises:
            NotebookError: where the first one stopped.
        """
        real = any("_real_" in path.name for path in self.waiting)  # up to 6 GB each
        slots, own = (1, {}) if real else side_by_side(len(self.waiting))
        try:
            while self.waiting or self.under_way:
                while self.waiting and len(self.under_way) < slots:
                    path = self._next()
                    self.waiting.remove(path)
                    self.under_way[asyncio.create_task(self._run(path, own))] = path
                self._show()
                done, _ = await asyncio.wait(self.under_way, timeout=1, return_when=asyncio.FIRST_COMPLETED)
                ended = sorted((self.under_way.pop(task), task) for task in done)
                for path, _ in ended:
                    self._ended(path)
                for _, task in ended:
                    task.result()
        finally:
            for task in self.under_way:
                task.cancel()
            await asyncio.gather(*self.under_way, return_exceptions=True)
            self._bar.close()

    def _next(self) -> Path:
        """The first by number to begin with; then, of those whose models are there, what most work waits for."""
        unfinished = {path.stem for path in (*self.waiting, *self.under_way.values())}
        free = [path for path in self.waiting if TRAINED_BY.get(path.stem) not in unfinished] or self.waiting
        begun = self.ran or self.under_way
        return max(free, key=lambda path: self._seconds_until_end(path.stem)) if begun else free[0]

    def _seconds_until_end(self, name: str) -> int:
        """Of a notebook and the longest row of those that wait for it."""
        after = (path.stem for path in self.waiting if TRAINED_BY.get(path.stem) == name)
        return self._seconds[name] + max(map(self._seconds_until_end, after), default=0)

    async def _run(self, path: Path, own: dict[str, str]) -> None:
        """Execute a notebook and put its figures and claims beside the others', also if it stops midway."""
        build_dir().mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=build_dir(), prefix=f"{path.stem}-") as folder:
            fresh = Path(folder)

            def ran_cell(share: float) -> None:
                self._share[path.stem] = share
                self._decide(fresh)

            try:
                await execute(path, self._saved / path.name, fresh, own, ran_cell)
            except NotebookError:
                self._keep_figures(fresh)
                raise
            finally:  # of a notebook that was stopped for another's sake the claims alone: a figure may be half written
                self._decide(fresh)
            self._keep_figures(fresh)

    def _keep_figures(self, folder: Path) -> None:
        self._figures.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            if file.name != "claims.json":
                shutil.copyfile(file, self._figures / file.name)

    def _decide(self, folder: Path) -> None:
        """Keep the claims that a notebook has recorded by now, and print those that are new."""
        new = {r.id: r for r in load_records(folder) if self.yours.get(r.id) != r}
        if new:
            save_records(new.values(), self._figures)
            self.yours |= new
            self._print(new)

    def _ended(self, path: Path) -> None:
        self._share[path.stem] = 1.0
        self.ran.add(path.stem)
        minutes = (time.monotonic() - self._start) / 60
        tqdm.write(f"{path.name} ended {minutes:.1f} minutes after the start", file=sys.stderr)
        self._print(c.id for c in CLAIMS.values() if c.notebook == path.stem and c.id not in self.yours)

    def comparison(self, i: str) -> str:
        """The line of a claim."""
        return comparison(CLAIMS[i], self.shipped.get(i), self.yours.get(i), CLAIMS[i].notebook in self.ran)

    def _print(self, ids: Iterable[str]) -> None:
        for i in ids:
            tqdm.write(f"{self.comparison(i)} ({self.left()})", file=sys.stdout)
            sys.stdout.flush()

    def left(self) -> str:
        """The time left, by what is done of all work and how long that took."""
        done = sum(self._seconds[name] * share for name, share in self._share.items())
        speed = (done + SECONDS_OF_TRUST) / (time.monotonic() - self._start + SECONDS_OF_TRUST)
        return f"about {math.ceil((self._bar.total - done) / speed / 60)} min left"

    def _show(self) -> None:
        self._bar.n = sum(self._seconds[name] * share for name, share in self._share.items())
        names = ", ".join(path.stem for path in self.under_way.values())
        self._bar.set_description_str(f"{self.left()}: {names}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 if every notebook ran and found of every claim of theirs what is recorded, else 1."""
    parser = argparse.ArgumentParser(prog="python -m unifylens.reproduce", description=__doc__.splitlines()[0])
    parser.add_argument(
        "only",
        nargs="*",
        metavar="NOTEBOOK",
        help="first letters of notebooks, such as 01; default: all but those on real words and models",
    )
    parser.add_argument("--profile", choices=PROFILES, help="default: UNIFYLENS_PROFILE, else quick")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="for maintainers: renew figures/, the notebooks and the README's table instead of writing under build/",
    )
    options = parser.parse_args(arguments)
    if options.publish and os.environ.get("UNIFYLENS_FIGURES"):
        parser.error(f"--publish writes to {published_dir()}; UNIFYLENS_FIGURES must be unset")
    if options.profile:
        os.environ["UNIFYLENS_PROFILE"] = options.profile
    os.environ["UNIFYLENS_REPORTED"] = "1"
    size = profile()
    if not is_checkout(project_dir()):
        parser.error(f"{Path.cwd()} is not in a checkout of unifylens, which has the notebooks")
    paths = sorted((project_dir() / "notebooks").glob("[0-9]*.ipynb"))
    asked = tuple(options.only)
    chosen = [p for p in paths if (p.name.startswith(asked) if asked else "_real_" not in p.name)]
    unmatched = [o for o in options.only if not any(p.name.startswith(o) for p in paths)]
    if unmatched or not chosen:
        parser.error(f"no notebook {' or '.join(unmatched)} among: {', '.join(p.name for p in paths) or 'none'}")

    start = time.monotonic()
    figures = published_dir() if options.publish else figures_dir()
    saved = project_dir() / "notebooks" if options.publish and size == "quick" else build_dir() / "notebooks"
    job, stopped = _Job(chosen, saved, figures), None
    try:
        asyncio.run(job.run())
    except NotebookError as error:
        stopped = error
    if options.publish:
        update_readme()  # also after a stop: a claim that was not held is shown so
    ran, yours = job.ran, job.yours
    due = {c.id for c in CLAIMS.values() if c.notebook in ran} | yours.keys()
    differ = [yours[i] for i in CLAIMS if i in yours and not yours[i].agrees]
    print()
    for i in CLAIMS:
        print(job.comparison(i))
    for record in differ:
        print(f"unifylens: {record!r}. Recorded: {CLAIMS[record.id].verdict}")
    minutes = (time.monotonic() - start) / 60
    print(
        f"unifylens: {len(ran)} notebooks in {minutes:.1f} minutes (profile {size}), "
        f"{len(yours) - len(differ)} of {len(due)} claims agree with the record; written to {figures} and {saved}"
    )
    if stopped:
        print(f"unifylens: stopped at {stopped}\n(this notebook was not saved)", file=sys.stderr)
    return 1 if stopped or differ or due - yours.keys() else 0


if __name__ == "__main__":
    sys.exit(main())
