"""Exercises of the notebooks, and a run with all of them solved: `python tests/solutions.py 00 03`.

An exercise is a code cell with the line `answer = ...` and a check; in the next cell stands the folded solution.
"""

import asyncio
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PLACE = re.compile(r"^answer = \.\.\.$", flags=re.M)
SOLUTION = re.compile(r"<summary>Solution</summary>\n\n```python\n(.*?)^```\n\n(.+?)\n\n</details>", flags=re.M | re.S)


def exercises(notebook: nbformat.NotebookNode) -> list[tuple[int, str]]:
    """The index of each cell with an exercise, and the code that solves it.

    Raises ValueError for an exercise without a solution, or with a place for an answer more or less than once.
    """
    found = []
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and "exercises.check(" in cell.source:
            solution = SOLUTION.search(notebook.cells[index + 1].source)
            if solution is None or len(PLACE.findall(cell.source)) != 1:
                raise ValueError(f"cell {index}: an exercise has one line `answer = ...`, and then its solution")
            found.append((index, solution[1].strip()))
    return found


def solved(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with the solutions where answers belong."""
    for index, code in exercises(notebook):
        cell = notebook.cells[index]
        cell.source = PLACE.sub(lambda _, code=code: code, cell.source)
    return notebook


def verdicts(notebook: nbformat.NotebookNode) -> list[str]:
    """What the checks of an executed notebook printed last."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and "exercises.check(" in cell.source]
    return ["".join(o.get("text", "") for o in cell.outputs).strip().splitlines()[-1] for cell in cells]


def main(numbers: list[str]) -> int:
    """Run notebooks with their solutions as scratch; 0 if every check says "right"."""
    from unifylens.reproduce import execute  # loads much, and tests need only the above

    wrong, inside = 0, NOTEBOOKS.parent / "build"
    inside.mkdir(exist_ok=True)  # in the checkout, whose records notebooks may read
    for path in sorted(path for number in numbers for path in NOTEBOOKS.glob(f"{number}*.ipynb")):
        with tempfile.TemporaryDirectory(dir=inside) as folder:
            written, saved = Path(folder, path.name), Path(folder, "saved.ipynb")
            nbformat.write(solved(nbformat.read(path, as_version=4)), written)
            asyncio.run(execute(written, saved, Path(folder), {"UNIFYLENS_REPORTED": "0"}, lambda share: None))
            said = verdicts(nbformat.read(saved, as_version=4))
        print(f"{path.name}: {said}")
        wrong += any(verdict != "right" for verdict in said)
    return wrong


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(sys.argv[1:]))
