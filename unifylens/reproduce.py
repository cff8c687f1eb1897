"""Execute the notebooks in order and say which claims hold.

`python -m unifylens.reproduce` runs all but those on real words and models, which need packages with weights;
`python -m unifylens.reproduce 01 02 --profile full` runs some. All is written under `build/`: figures and `claims.json`
to `build/figures`, the executed notebooks to `build/notebooks`. With `--publish`, for maintainers, they replace those
that the project ships, and the README's table of claims is renewed.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

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
from tqdm import tqdm

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


class NotebookError(Exception):
    """A notebook that did not run through."""


class _ThisInterpreter(AsyncKernelManager):
    """Kernels of the running Python, whatever kernels the user's machine has installed."""

    transport_encryption = "auto"

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
            metadata={"supported_encryption": "curve"},
            env={"TQDM_DISABLE": "1"},  # progress as text belongs in the terminal, not in the outputs
        )


def execute(path: Path, saved: Path, figures: Path) -> None:
    """Run one notebook in a fresh kernel, in its own folder, and write it to `saved` if every cell ran.

    Its figures and claims go to `figures`.

    Raises:
        NotebookError: if a cell fails or the kernel dies; nothing is then written to `saved`.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_manager_class=_ThisInterpreter,
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        coalesce_streams=True,
    )
    code_cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    number = 0
    env = os.environ | {"UNIFYLENS_FIGURES": str(figures)}
    with tqdm(total=code_cells, desc=path.name, unit="cell") as bar, client.setup_kernel(env=env):
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type != "code":
                continue
            number += 1
            try:
                client.execute_cell(cell, index, execution_count=number)
            except CellExecutionError as error:
                raise NotebookError(f"{path.name}, code cell {number}: {error.ename}: {error.evalue}") from error
            except DeadKernelError as error:
                raise NotebookError(f"{path.name}, code cell {number}: the kernel died") from error
            bar.update()
    _drop_volatile(notebook)
    write_atomic(saved, nbformat.writes(notebook) + "\n")


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


def _run(path: Path, saved: Path, figures: Path) -> tuple[list[Record], NotebookError | None]:
    """Execute a notebook and put its figures and claims beside the others' in `figures`, also if it stops midway.

    Returns the claims that it recorded, and where it stopped.
    """
    build_dir().mkdir(exist_ok=True)
    stopped = None
    with tempfile.TemporaryDirectory(dir=build_dir(), prefix=f"{path.stem}-") as fresh:
        try:
            execute(path, saved, Path(fresh))
        except NotebookError as error:
            stopped = error
        records = load_records(Path(fresh))
        figures.mkdir(parents=True, exist_ok=True)
        for file in Path(fresh).iterdir():
            if file.name != "claims.json":
                shutil.copyfile(file, figures / file.name)
    if records:
        save_records(records, figures)
    return records, stopped


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 if every notebook ran and every claim of theirs holds, else 1."""
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
    found = sorted((project_dir() / "notebooks").glob("[0-9]*.ipynb"))
    asked = tuple(options.only)
    chosen = [p for p in found if (p.name.startswith(asked) if asked else "_real_" not in p.name)]
    unmatched = [o for o in options.only if not any(p.name.startswith(o) for p in found)]
    if unmatched or not chosen:
        parser.error(f"no notebook {' or '.join(unmatched)} among: {', '.join(p.name for p in found) or 'none'}")

    start = time.monotonic()
    figures = published_dir() if options.publish else figures_dir()
    saved = project_dir() / "notebooks" if options.publish else build_dir() / "notebooks"
    shipped = {r.id: r for r in load_records(published_dir())}
    yours: dict[str, Record] = {}
    ran: set[str] = set()

    def compare(ids: Iterable[str]) -> None:
        for i in ids:
            print(comparison(CLAIMS[i], shipped.get(i), yours.get(i), CLAIMS[i].notebook in ran), flush=True)

    for path in chosen:
        records, stopped = _run(path, saved / path.name, figures)
        yours |= {r.id: r for r in records}
        ran.add(path.stem)
        own = {c.id for c in CLAIMS.values() if c.notebook == path.stem} | {r.id for r in records}
        compare(i for i in CLAIMS if i in own)
        if stopped:
            break
    if options.publish:
        update_readme()  # also after a stop: a claim that failed is shown as failed
    due = {c.id for c in CLAIMS.values() if c.notebook in ran} | yours.keys()
    failed = [r for r in yours.values() if not r.holds]
    print()
    compare(CLAIMS)
    for record in failed:
        print(f"unifylens: {record!r}")
    minutes = (time.monotonic() - start) / 60
    print(
        f"unifylens: {len(ran)} notebooks in {minutes:.1f} minutes (profile {size}), "
        f"{len(yours) - len(failed)} of {len(due)} claims hold; written to {figures} and {saved}"
    )
    if stopped:
        print(f"unifylens: stopped at {stopped}\n(this notebook was not saved)", file=sys.stderr)
    return 1 if stopped or failed or due - yours.keys() else 0


if __name__ == "__main__":
    sys.exit(main())
