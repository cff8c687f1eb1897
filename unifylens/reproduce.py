"""Execute the notebooks in order and say which claims hold.

`python -m unifylens.reproduce` runs all but those on real words and models, which need packages with weights;
`python -m unifylens.reproduce 01 02 --profile full` runs some.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
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

from unifylens.environment import PROFILES, figures_dir, profile, project_dir, write_atomic
from unifylens.evidence.ledger import CLAIMS
from unifylens.evidence.records import claims_text, load_records, update_readme

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


def execute(path: Path) -> None:
    """Run one notebook in a fresh kernel, in its own folder, and save it in place if every cell ran.

    Raises:
        NotebookError: if a cell fails or the kernel dies; the file is then as it was.
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
    with tqdm(total=code_cells, desc=path.name, unit="cell") as bar, client.setup_kernel():
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
    write_atomic(path, nbformat.writes(notebook) + "\n")


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


def _renew_readme() -> None:
    if figures_dir() == project_dir() / "figures":  # figures kept elsewhere are not the README's
        update_readme()


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
    options = parser.parse_args(arguments)
    if options.profile:
        os.environ["UNIFYLENS_PROFILE"] = options.profile
    size = profile()
    found = sorted((project_dir() / "notebooks").glob("[0-9]*.ipynb"))
    asked = tuple(options.only)
    chosen = [p for p in found if (p.name.startswith(asked) if asked else "_real_" not in p.name)]
    unmatched = [o for o in options.only if not any(p.name.startswith(o) for p in found)]
    if unmatched or not chosen:
        parser.error(f"no notebook {' or '.join(unmatched)} among: {', '.join(p.name for p in found) or 'none'}")

    start = time.monotonic()
    for path in chosen:
        try:
            execute(path)
        except NotebookError as error:
            _renew_readme()  # a claim that failed is shown as failed
            print(f"unifylens: stopped at {error}\n(the notebook's file was left as it was)", file=sys.stderr)
            return 1
    _renew_readme()
    records = load_records()
    names = {path.stem for path in chosen}
    missing = [c.id for c in CLAIMS.values() if c.notebook in names and c.id not in {r.id for r in records}]
    failed = [r.id for r in records if not r.holds]
    print(claims_text(records))
    for problem, ids in (("not recorded", missing), ("not holding", failed)):
        if ids:
            print(f"unifylens: claims {problem}: {', '.join(ids)}")
    minutes = (time.monotonic() - start) / 60
    print(
        f"unifylens: {len(chosen)} notebooks in {minutes:.1f} minutes (profile {size}), "
        f"{sum(r.holds for r in records)} of {len(records) + len(missing)} claims hold"
    )
    return 1 if missing or failed else 0


if __name__ == "__main__":
    sys.exit(main())
