"""Files as people have them: with marks, odd line ends, code pages, broken lines, packed or empty."""

import csv
import gzip
import json
import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unifylens.corpus import files

ROWS = [{"name": "a\u2028b\u2029c\x85d\x0be\x0cf", "n": "1"}, {"name": "São Tomé", "n": "2"}]


def write(path, rows, mark="", ends="\n"):
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes((mark + ends.join(lines) + ends).encode())
    return path


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_marks_and_separators_are_no_trouble(tmp_path, mark, ends):
    """U+2028 and the like are no ends of lines, and a mark at the start is no text."""
    lines = files.records(write(tmp_path / "a.jsonl", ROWS, mark, ends), ("name",))
    assert lines.to_dict("records") == ROWS
    (tmp_path / "a.json").write_bytes((mark + json.dumps(ROWS, ensure_ascii=False)).encode())
    assert files.json_value(tmp_path / "a.json") == ROWS
    assert files.records(tmp_path / "a.json", ("name",)).to_dict("records") == ROWS


TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1)


@given(rows=st.lists(TEXT, min_size=1, max_size=4), mark=st.sampled_from(["", "\ufeff"]), packed=st.booleans())
def test_any_texts_come_back(tmp_path_factory, rows, mark, packed):
    folder = tmp_path_factory.mktemp("any")
    table = pd.DataFrame({"name": rows, "other": "x"})
    for kind in ("jsonl", "json", "csv", "tsv"):
        if kind.startswith("json"):
            text = table.to_json(orient="records", lines=kind == "jsonl", force_ascii=False)
        else:
            text = table.to_csv(
                index=False, sep="\t" if kind == "tsv" else ",", lineterminator="\n", quoting=csv.QUOTE_ALL
            )
        path, data = folder / f"a.{kind}{'.gz' * packed}", (mark + text).encode()
        path.write_bytes(gzip.compress(data) if packed else data)
        if "\0" not in "".join(rows):
            assert files.records(path, ("name",))["name"].tolist() == rows, kind


def told(path, error=ValueError, columns=("name",)):
    with pytest.raises(error) as info:
        files.records(path, columns)
    message = str(info.value)
    assert str(path) in message and "\n" not in message
    return message


@pytest.mark.parametrize("page", ["cp1252", "cp1251", "latin-1"])
def test_a_code_page_is_told_with_its_line(tmp_path, page):
    word = "Москва" if page == "cp1251" else "São Tomé"
    for kind in ("jsonl", "csv"):
        path = tmp_path / f"a.{kind}"
        path.write_bytes(f'{{"name": "x"}}\n{{"name": "{word}"}}\n'.encode(page))
        assert re.search(r"line 2 holds the byte 0x\w\w, which is not UTF-8 .*Windows", told(path))


def test_utf_16_is_told(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("name\nx\n".encode("utf-16"))
    assert "UTF-16" in told(path)


def test_a_broken_line_is_told_with_its_number(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    path.write_bytes(path.read_bytes() + b'\n{"name": "cut')
    assert f"{path}, line 4, column 10: no JSON (Unterminated string" in told(path)
    for line, what in (("[1]", "[1]"), ("7", "7"), ("null", "None")):
        path.write_text(f'{{"name": "x"}}\n{line}\n')
        assert f"line 2 holds {what!r}; allowed: an object" in told(path)
    path.write_text('{"name": "\\ud83d"}')
    assert "line 1: half a character" in told(path)
    path.write_text('{"name": "\\ud83d\\ude00"}')
    assert files.records(path, ("name",))["name"].tolist() == ["😀"]


def test_broken_json_is_told_with_its_line(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[\n {"name": "x"},\n {"name": }\n]')
    assert f"{path}, line 3, column 11: no JSON" in told(path)
    path.write_text('{"name": "x"}')
    assert "allowed: a list of objects (one a line is called .jsonl)" in told(path)
    path.write_text('[{"name": "x"}, 3]')
    assert "entry 2 holds '3'" in told(path)


def test_broken_tables_are_told(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("name,n\nx,1\ny\n")
    assert "row 3 has 1 fields; allowed: 2" in told(path)
    path.write_text("name,n\nx,1,2\n")
    assert "row 2 has 3 fields; allowed: 2" in told(path)
    path.write_text('name,n\n"x"y,1\n')
    assert f"{path}, line 2: " in told(path) and "quotes inside them doubled" in told(path)
    path.write_text('name,n\n\n"x\ny",1\nz,2\n"open,3\nu,4\n')
    assert f"{path}, line 6: unexpected end of data" in told(path), "where the row begins"
    path.write_text("name,n,name\nx,1,y\n")
    assert "has two columns 'name'; allowed: one of each name" in told(path)
    path.write_text("name,n,,\nx,1,,\n")
    assert files.records(path, ("name",))["name"].tolist() == ["x"], "as spreadsheets write"
    path.write_text("name;n\nx;1\n")
    assert "a row lacks 'name'; it has name;n" in told(path)
    path = tmp_path / "a.parquet"
    path.write_text("name\n")
    assert "is no parquet file" in told(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv"])
@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
def test_an_empty_file_is_told(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert "is empty" in told(path)


def test_other_files_are_told(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("x")
    assert "allowed are .jsonl, .json, .csv, .tsv, .parquet" in told(path)
    path = tmp_path / "a.jsonl"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "git lfs pull" in told(path)
    path = tmp_path / "a.csv.gz"
    path.write_text("name\nx\n")
    assert "cannot be unpacked" in told(path)
    path = tmp_path / "folder.json"
    path.mkdir()
    assert "is a folder; allowed: a file" in told(path)


def test_what_is_missing_is_none(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"name": None, "n": 1}, {"n": [1]}, {"name": float("nan"), "n": "x"}])
    table = files.records(path, ("name",))
    assert table["name"].tolist() == [None] * 3 and table["n"].tolist() == [1, [1], "x"]
    pd.DataFrame({"name": ["x", None], "n": [1, 2]}).to_parquet(tmp_path / "a.parquet")
    table = files.records(tmp_path / "a.parquet", ("name",))
    assert table["name"].tolist() == ["x", None] and type(table["n"][0]) is int
    (tmp_path / "a.csv").write_text("name,n\nNA,1990\n")
    assert files.records(tmp_path / "a.csv", ("name",)).values.tolist() == [["NA", "1990"]]
