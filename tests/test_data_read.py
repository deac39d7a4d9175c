"""Reading files: every ending, every way to be broken."""

import bz2
import functools
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelforge.common.sources import DatasetSource
from modelforge.data.files import SUFFIXES, read_file
from modelforge.data.packed import NAMES
from modelforge.data.sources import Asked, read_source
from modelforge.errors import DataError

ROWS = [{"prompt": "one, two", "n": "1"}, {"prompt": 'say "é" \u2028', "n": "2"}]


@functools.cache
def whole(suffix: str) -> bytes:
    return as_bytes(suffix, ROWS)  # an Excel file holds the time it was made


def as_bytes(suffix: str, rows: list[dict]) -> bytes:
    if suffix == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if suffix == ".json":
        return json.dumps(rows, indent=1).encode()
    if suffix in (".csv", ".tsv"):
        import csv

        text = io.StringIO()
        mark = "," if suffix == ".csv" else "\t"
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), delimiter=mark)
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()
    if suffix == ".xlsx":
        return as_xlsx([list(rows[0]), *(list(row.values()) for row in rows)])
    import pyarrow
    import pyarrow.parquet

    out = io.BytesIO()
    table = pyarrow.Table.from_pylist(rows)
    if suffix == ".arrow":
        with pyarrow.ipc.new_stream(out, table.schema) as stream:
            stream.write_table(table)
    else:
        pyarrow.parquet.write_table(table, out)
    return out.getvalue()


def as_xlsx(cells: list[list], *others: list[list]) -> bytes:
    openpyxl = pytest.importorskip("openpyxl")
    book, out = openpyxl.Workbook(), io.BytesIO()
    for row in cells:
        book.active.append(row)
    for rows in others:
        sheet = book.create_sheet()
        for row in rows:
            sheet.append(row)
    book.save(out)
    return out.getvalue()


def as_zip(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def packed_by(how: str, raw: bytes) -> bytes:
    if how == ".gz":
        return gzip.compress(raw, mtime=0)
    if how == ".bz2":
        return bz2.compress(raw)
    if how == ".xz":
        return lzma.compress(raw)
    if how == ".zip":
        return as_zip(rows=raw)
    if how == ".zst":
        import pyarrow

        return pyarrow.compress(raw, codec="zstd", asbytes=True)
    return raw


def write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_file(path, shown=path.name)
    return [str(problem) for problem in caught.value.problems]


TABLES = [suffix for suffix in SUFFIXES if suffix != ".txt"]


@pytest.mark.parametrize("packed", ["", *NAMES])
@pytest.mark.parametrize("suffix", TABLES)
def test_every_ending_gives_the_same_rows(tmp_path, suffix, packed):
    name = f"rows{suffix}{packed}"
    path = write(tmp_path, name, packed_by(packed, as_bytes(suffix, ROWS)))
    table = read_file(path, shown=name)
    assert [row.cells for row in table.rows] == ROWS
    assert table.rows[1].where.startswith(f"{name}:")
    assert len(table.sha256) == 64


@pytest.mark.parametrize(
    ("mark", "said"), [(",", None), (";", "';'"), ("\t", "'\\t'"), ("|", "'|'")]
)
def test_a_csv_tells_what_stands_between_its_cells(tmp_path, mark, said):
    lines = [mark.join(cells) for cells in (("q", "a"), ("one, two", "x"), ('"a;b"', "y"))]
    if mark == ",":
        lines[1] = '"one, two",x'
    table = read_file(write(tmp_path, "a.csv", "\n".join(lines)), shown="a.csv")
    expected = [{"q": "one, two", "a": "x"}, {"q": "a;b", "a": "y"}]
    assert [row.cells for row in table.rows] == expected
    assert table.notes == ([f"a.csv: read with {said} between the cells"] if said else [])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(tmp_path, encoding):
    raw = '{"a": "é"}'.encode(encoding)
    if encoding == "utf-16-be":
        raw = b"\xfe\xff" + raw
    table = read_file(write(tmp_path, "a.jsonl", raw), shown="a.jsonl")
    assert [row.cells for row in table.rows] == [{"a": "é"}]
    known = encoding.upper()[:6] if encoding != "utf-8-sig" else ""
    assert table.notes == ([f"a.jsonl: read as {known}"] if known else [])


FRENCH = '{"q": "Où est le café ?", "a": "À côté de l’église — naïve, garçon, €5"}\n'
TEXTS = {
    "cp1252": FRENCH,
    "utf-16-le": FRENCH,
    "utf-16-be": FRENCH,
    "gbk": '{"q": "你好，请问北京在哪里？", "a": "北京是中国的首都。"}\n',
    "cp1251": '{"q": "Привет, как дела?", "a": "Хорошо, спасибо"}\n',
    "shift_jis": '{"q": "東京はどこですか", "a": "日本の首都です。"}\n',
}


@pytest.mark.parametrize("encoding", TEXTS)
def test_letters_tell_an_encoding_that_no_mark_does(tmp_path, encoding):
    text = TEXTS[encoding]
    table = read_file(write(tmp_path, "a.jsonl", (text * 3).encode(encoding)), shown="a.jsonl")
    assert [row.cells for row in table.rows] == [json.loads(text)] * 3
    (doubt,) = table.doubts
    assert "read as" in doubt and "save it as UTF-8 if that reads wrong" in doubt


def test_letters_that_may_be_of_several_encodings_are_refused(tmp_path):
    text = '{"q": "Türkiye\'nin başkenti neresidir?", "a": "Başkent Ankara, güzel bir şehir."}\n'
    (told,) = problems(write(tmp_path, "a.jsonl", (text * 2).encode("cp1254")))
    assert "its letters may be any of" in told and "cp1254" in told


def test_a_sheet_without_a_name_for_a_column_and_a_second_sheet_are_refused(tmp_path):
    raw = as_xlsx([["a", None], [1, None], [None, None], [2, "x"]])
    assert (
        "a.xlsx:4: a cell stands in a column without a name"
        in problems(write(tmp_path, "a.xlsx", raw))[0]
    )
    raw = as_xlsx([["a"], [1]], [["a"], [2]])
    assert "holds several sheets" in problems(write(tmp_path, "b.xlsx", raw))[0]
    rows = read_file(write(tmp_path, "c.xlsx", as_xlsx([["a"], [1], [None], ["x"]])), shown="c")
    assert [(row.line, row.cells["a"]) for row in rows.rows] == [(2, 1), (4, "x")]


@pytest.mark.parametrize("suffix", TABLES)
def test_large_files_give_the_same_rows_each_time(tmp_path, suffix):
    path = write(tmp_path, f"rows{suffix}", as_bytes(suffix, ROWS))
    few, many = (read_file(path, shown="rows", large=large) for large in (False, True))
    assert list(many.rows) == list(many.rows) == few.rows == many.rows[:9]
    assert (len(many.rows), many.rows[1], many.sha256) == (2, few.rows[1], few.sha256)


def test_a_json_object_may_hold_one_list_under_any_name(tmp_path):
    text = '{"version": "1",\n "tags": ["x"], "rows": [\n{"a": 1},\n{"a": 2}]}'
    rows = read_file(write(tmp_path, "a.json", text), shown="a.json").rows
    assert [(row.line, row.cells) for row in rows] == [(3, {"a": 1}), (4, {"a": 2})]


TWO = [{"prompt": "Q 1", "completion": "A"}, {"prompt": "Q2", "completion": "B; b"}]
NOTES = "#separator:Semicolon\n#html:false\n#columns:prompt;completion\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "\n".join(map(json.dumps, TWO)), "read as JSON lines"),
        ("a.jsonl", json.dumps(TWO), "read as a JSON list"),
        ("a.jsonl", json.dumps(TWO, indent=1), "read as a JSON list"),
        ("a.json", json.dumps({key: [row[key] for row in TWO] for key in TWO[0]}), ""),
        ("a.csv", 'sep=;\nprompt;completion\nQ 1;A\nQ2;"B; b"\n', "';' between the cells"),
        ("a.txt", NOTES + 'Q 1;A\nQ2;"B; b"\n', "read as notes of Anki"),
    ],
)
def test_what_a_file_holds_goes_before_its_ending(tmp_path, name, content, said):
    table = read_file(write(tmp_path, name, content), shown=name)
    assert [row.cells for row in table.rows] == TWO
    assert said in " ".join(table.notes)


def test_notes_of_anki_without_names_are_front_and_back(tmp_path):
    text = '#separator:tab\n#html:true\n#tags column:3\nF<br>f\tB\tt\n"F 2"\t"B\n2"\t\n'
    rows = read_file(write(tmp_path, "a.txt", text), shown="a.txt").rows
    assert [row.cells for row in rows] == [
        {"Front": "F<br>f", "Back": "B", "tags": "t"},
        {"Front": "F 2", "Back": "B\n2", "tags": ""},
    ]
    assert [row.line for row in rows] == [4, 5]


def test_a_text_that_begins_with_a_tag_is_a_text(tmp_path):
    table = read_file(write(tmp_path, "a.txt", '#tags are "odd'), shown="a.txt")
    assert [row.cells for row in table.rows] == [{"text": '#tags are "odd'}] and not table.notes


def test_jsonl_tolerates_bom_crlf_and_blank_lines(tmp_path):
    path = write(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\r\n   \n{"a": NaN}')
    rows = read_file(path, shown="a.jsonl").rows
    assert [(row.line, row.cells) for row in rows] == [(1, {"a": 1}), (4, {"a": None})]


def test_json_rows_know_their_line(tmp_path):
    text = '{"version": 1, "data": [\n  {"a": 1},\n\n  {"a":\n 2}, {"a": 3}\n]}'
    rows = read_file(write(tmp_path, "a.json", text), shown="a.json").rows
    assert [row.line for row in rows] == [2, 4, 5]
    pretty = json.dumps([{"a": i} for i in range(3)], indent=2)
    rows = read_file(write(tmp_path, "b.json", pretty), shown="b.json").rows
    assert [row.line for row in rows] == [2, 5, 8]


def test_csv_rows_know_their_line(tmp_path):
    path = write(tmp_path, "a.csv", 'a,b\n"x\ny",1\n\nz,2\n')
    rows = read_file(path, shown="a.csv").rows
    assert [(row.line, row.cells["a"]) for row in rows] == [(2, "x\ny"), (5, "z")]


def test_broken_lines_are_all_told_with_a_caret(tmp_path):
    path = write(
        tmp_path, "a.jsonl", '{"a": 1}\n{"a": 1 "b": 2}\n{"a": 2}\n[1]\n{"a": 1, "a": 2}\n'
    )
    first, second, third = problems(path)
    assert first.startswith("a.jsonl:2: broken JSON")
    shown, caret = first.splitlines()[1:3]
    assert shown[caret.index("^")] == '"'
    assert "a.jsonl:4: a row must be a JSON object, this is a list" in second
    assert "a.jsonl:5: key given twice in one object: 'a'" in third


def test_many_problems_are_counted_beyond_ten(tmp_path):
    found = problems(write(tmp_path, "a.jsonl", "nonsense\n" * 25))
    assert len(found) == 11
    assert "15 more problems" in found[-1]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b"", "holds no rows"),
        ("a.jsonl", b"\n \n", "holds no rows"),
        ("a.csv", b"a,b\n", "holds no rows"),
        ("a.json", b"[]", "holds no rows"),
        ("a.json", b'{"a": 1}', "must hold a list of objects"),
        ("a.json", b'{"a": 1} {"a": 2}', "name it .jsonl"),
        ("a.jsonl", b'[1]\n{"a": 2}', "a.jsonl:1: a row must be a JSON object, this is a list"),
        ("a.zip", as_zip(a=b"{}"), "name it by what is in it, as a.jsonl.zip"),
        ("a.json", b'{"a": [{"b": 1}], "c": [{"b": 2}]}', "holds several lists: a, c"),
        ("a.jsonl", b'{"a": "caf\xe9"}', "not UTF-8 at byte 10 (0xe9)"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16")[:-1], "not UTF-16, which its first bytes say"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\0"}', "a.jsonl:2: NUL byte at byte 16"),
        ("a.jsonl", b'{"a": "\\ud800"}', "surrogate"),
        ("a.jsonl", b"[" * 100000, "JSON nested too deeply"),
        ("a.txt", b"#separator:\na", "the separator of these notes is ''"),
        ("a.txt", b"#separator:::\na::b", "the separator of these notes is '::'"),
        ("a.txt", b"#separator:;\n#columns:a;a\n1;2", "column name given twice: 'a'"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "a.csv:3: 3 cells in a table of 2 columns"),
        ("a.csv", b"a,a\n1,2\n", "column name given twice"),
        ("a.csv", b'a,b\n"1,2\n', "broken CSV"),
        ("a.parquet", b"PAR1 no", "not a readable Parquet file"),
        ("a.jsonl.gz", b"not gzip", "not a whole gzip file"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}' * 99, mtime=0)[:-9], "not a whole gzip file"),
        ("a.jsonl.zst", b"not zst", "not a whole Zstandard file"),
        ("a.jsonl.bz2", b"not bz2", "not a whole bzip2 file"),
        ("a.jsonl.xz", lzma.compress(b'{"a": 1}' * 99)[:-9], "not a whole xz file"),
        ("a.jsonl.zip", b"not zip", "not a whole ZIP file"),
        ("a.jsonl.zip", as_zip(a=b"{}", b=b"{}"), "holds 2 files: a, b"),
        ("a.xlsx", b"no sheet", "Excel"),
        ("a.arrow", b"ARROW no", "not a readable Arrow file"),
        ("a.txt", b" \n", "holds no rows"),
        ("a.doc", b"hello", "cannot read files ending in '.doc'"),
    ],
)
def test_bad_files_give_one_clear_problem(tmp_path, name, content, told):
    (problem,) = problems(write(tmp_path, name, content))
    assert told in problem


def test_a_missing_file_offers_the_nearest_name(tmp_path):
    write(tmp_path, "train.jsonl", "{}")
    with pytest.raises(DataError, match=r"did you mean 'train.jsonl'"):
        read_source(DatasetSource(path="trian.jsonl"), Asked("", base_dir=tmp_path))
    with pytest.raises(DataError, match="no folder"):
        read_source(DatasetSource(path="nowhere/train.jsonl"), Asked("", base_dir=tmp_path))


def test_a_hub_id_without_network_is_a_data_error(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="not in the cache"):
        read_source(DatasetSource(path="nobody/nothing-of-this-name"), Asked("", base_dir=tmp_path))


def test_a_folder_is_read_file_by_file_and_paths_start_at_the_config(tmp_path):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", "b.jsonl", '{"a": 1}')
    write(tmp_path / "data", "a.csv", "a\n2\n")
    write(tmp_path / "data", "readme.md", "no data")
    tables = read_source(DatasetSource(path="data"), Asked("", base_dir=tmp_path)).tables
    assert [Path(table.path).name for table in tables] == ["a.csv", "b.jsonl"]
    write(tmp_path / "data", "c.jsonl", "{")
    with pytest.raises(DataError, match=r"c.jsonl:1"):
        read_source(DatasetSource(path="data"), Asked("", base_dir=tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no data file"):
        read_source(DatasetSource(path="empty"), Asked("", base_dir=tmp_path))


@settings(max_examples=300, deadline=None)
@given(data=st.data(), suffix=st.sampled_from(SUFFIXES), packed=st.booleans())
def test_mutated_bytes_never_raise_anything_else(tmp_path_factory, data, suffix, packed):
    raw = bytearray(whole(suffix))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not raw:
            break
    content = gzip.compress(bytes(raw)) if packed else bytes(raw)
    folder = tmp_path_factory.mktemp("mutated")
    path = write(folder, f"rows{suffix}" + (".gz" if packed else ""), content)
    try:
        table = read_file(path, shown="rows")
    except DataError as error:
        assert error.problems
    else:
        assert table.rows and all(isinstance(row.cells, dict) for row in table.rows)


def test_a_text_of_negative_length_is_a_damaged_file(tmp_path):
    """Arrow does not look at the offsets of a file; Python's own error is a SystemError."""
    pyarrow = pytest.importorskip("pyarrow")
    offsets = pyarrow.py_buffer(np.array([0, 5, 2], dtype=np.int32))
    texts = [None, offsets, pyarrow.py_buffer(b"hello")]
    bent = pyarrow.Array.from_buffers(pyarrow.string(), 2, texts)
    batch = pyarrow.record_batch([bent], names=["text"])
    with pyarrow.ipc.new_stream(str(tmp_path / "a.arrow"), batch.schema) as stream:
        stream.write_batch(batch)
    with pytest.raises(DataError, match="not a readable Arrow file"):
        read_file(tmp_path / "a.arrow", shown="a.arrow")
