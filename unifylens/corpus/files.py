"""Files as people have them: JSON, JSON lines, CSV, TSV and parquet, plain or packed (.gz), as values and tables.

Text is UTF-8, with or without a mark at its start. Errors name the file, and the line where there is one.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

LFS = b"version https://git-lfs"
"""What stands in place of a large file in a checkout without git-lfs."""


def there(path: str | Path, what: str) -> Path:
    """The path of a file or folder. Raises FileNotFoundError, saying what it should be, if nothing is there."""
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{what}: {path} does not exist")
    return path


def text(path: Path) -> str:
    """A file's text. Raises ValueError for an empty file, and for one that is not written in UTF-8."""
    data = _bytes(path)
    try:
        decoded = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        where = f"line {line} holds the byte 0x{data[error.start]:02x}"
        looks = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "a code page of Windows or the like"
        raise ValueError(f"{path}: {where}, which is not UTF-8 (it looks like {looks}); allowed: UTF-8.") from None
    if not decoded.strip():
        raise ValueError(f"{path} is empty.")
    return decoded


def _bytes(path: Path) -> bytes:
    if path.is_dir():
        raise ValueError(f"{path} is a folder; allowed: a file.")
    data = path.read_bytes()
    if data.startswith(LFS):
        raise ValueError(
            f"{path} is a pointer of git-lfs, without the content; allowed: the file itself (git lfs pull)."
        )
    if path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}.") from None


def json_value(path: Path) -> Any:
    """What a JSON file holds. Raises ValueError with line and column if it is no JSON."""
    return _loaded(text(path), str(path))


def _loaded(content: str, where: str, line: int | None = None) -> Any:
    try:
        value = json.loads(content)
        if "\\ud" in content.lower():  # of two escapes for one character, one may be missing
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise ValueError(
            f"{where}, line {line or '?'}: half a character (\\ud...) stands alone; allowed: pairs."
        ) from None
    except json.JSONDecodeError as error:
        reads = _cut(content.split("\n")[error.lineno - 1])
        raise ValueError(
            f"{where}, line {line or error.lineno}, column {error.colno}: no JSON ({error.msg}); it reads {reads}"
        ) from None


def _cut(line: str) -> str:
    return repr(line if len(line) < 60 else f"{line[:57]}...")


def field(row: Any, name: str, where: object) -> Any:
    """A field of a JSON object. Raises ValueError if it is no object or lacks the field."""
    if not isinstance(row, dict):
        raise ValueError(f"{where}: {_cut(str(row))} stands where an object with {name!r} is due.")
    if name not in row:
        raise ValueError(f"{where}: a row lacks {name!r}; it has {', '.join(map(str, row)) or 'nothing'}.")
    return row[name]


def records(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Rows of a file as a table of objects: .jsonl, .json (a list of objects), .csv, .tsv or .parquet.

    What CSV and TSV hold stays text; what a row of JSON lacks is None. Raises ValueError for another kind of file, a
    broken line, two columns of one name, and where one of `columns` is lacking.
    """
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if kind not in KINDS:
        raise ValueError(f"{path}: allowed are {', '.join(KINDS)}, also packed as .gz.")
    table = KINDS[kind](path)
    twice = table.columns.duplicated()
    if names := [name for name in table.columns[twice] if name]:
        raise ValueError(f"{path} has two columns {names[0]!r}; allowed: one of each name.")
    table = table.loc[:, ~twice]  # spreadsheets leave nameless ones
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"{path}: a row lacks {missing[0]!r}; it has {', '.join(map(str, table)) or 'nothing'}.")
    return table.astype(object).where(table.notna(), None)


def _jsonl(path: Path) -> pd.DataFrame:
    # only line feeds end a line: U+2028 and the like may stand inside JSON strings
    lines = [(number, line) for number, line in enumerate(text(path).split("\n"), 1) if line.strip()]
    return _table([(f"{path}, line {number}", _loaded(line, str(path), number)) for number, line in lines])


def _json(path: Path) -> pd.DataFrame:
    rows = json_value(path)
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds {_cut(str(rows))}; allowed: a list of objects (one a line is called .jsonl).")
    return _table([(f"{path}, entry {number}", row) for number, row in enumerate(rows, 1)])


def _table(rows: list[tuple[str, Any]]) -> pd.DataFrame:
    for where, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{where} holds {_cut(str(row))}; allowed: an object.")
    return pd.DataFrame([row for _, row in rows], dtype=object)


def _separated(delimiter: str) -> Callable[[Path], pd.DataFrame]:
    def read(path: Path) -> pd.DataFrame:
        header, *rows = separated(path, delimiter)
        for number, row in enumerate(rows, 2):
            if len(row) != len(header):
                raise ValueError(
                    f"{path}, row {number} has {len(row)} fields; allowed: {len(header)}, as its head has."
                )
        return pd.DataFrame(rows, columns=header, dtype=object)

    return read


def separated(path: Path, delimiter: str) -> list[list[str]]:
    """Rows of texts of a CSV or TSV file; empty lines are passed over."""
    reader = csv.reader(io.StringIO(text(path), newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    start = 1
    try:
        for row in reader:
            rows += [row] * bool(row)
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {start}: {error}; allowed: fields in double quotes, and quotes inside them doubled."
        ) from None
    return rows


def _parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(io.BytesIO(_bytes(path)))
    except (OSError, ValueError) as error:  # pyarrow's errors are both
        raise ValueError(f"{path} is no parquet file: {error}") from None


KINDS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".parquet": _parquet,
}
"""How each kind of file is read."""
