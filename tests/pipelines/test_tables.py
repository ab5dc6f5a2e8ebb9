"""The rows of a .jsonl, .csv or .parquet: numbers, values by column, and why a line is none."""

import json
import sys

import pytest

from dreamfactory.errors import InputError, LibraryError
from dreamfactory.pipelines.tables import rows

ROWS = [{"file_name": "a.mp4", "caption": "a, b", "views": "3"}, {"file_name": "b.mp4", "caption": "", "views": "4"}]


def table(root, kind):
    path = root / f"list.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    elif kind == "csv":
        path.write_text('file_name,caption,views\na.mp4,"a, b",3\nb.mp4,,4\n', "utf-8")
    else:
        pyarrow = pytest.importorskip("pyarrow", reason="parquet is read by pyarrow, which is not installed")
        parquet = pytest.importorskip("pyarrow.parquet", reason="parquet is read by pyarrow, which is not installed")
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize(("kind", "first"), [("jsonl", 1), ("csv", 2), ("parquet", 1)])
def test_every_row_comes_with_its_number_and_columns(tmp_path, kind, first):
    """The number is that of its line, which an editor shows."""
    assert list(rows(table(tmp_path, kind))) == [(first, ROWS[0]), (first + 1, ROWS[1])]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_wanted_columns_are_there_and_absent_ones_are_not_made_up(tmp_path, kind):
    for (_, row), whole in zip(rows(table(tmp_path, kind), ("file_name", "motion")), ROWS, strict=True):
        assert isinstance(row, dict)
        assert row["file_name"] == whole["file_name"]
        assert "motion" not in row


def test_of_a_parquet_only_wanted_columns_are_read(tmp_path):
    assert [row for _, row in rows(table(tmp_path, "parquet"), ("views",))] == [{"views": "3"}, {"views": "4"}]


def test_numbers_and_nested_values_are_as_the_table_has_them(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 3, "x": 1.5, "no": null, "tags": ["a"]}\n', "utf-8")
    assert list(rows(path)) == [(1, {"n": 3, "x": 1.5, "no": None, "tags": ["a"]})]


def test_lines_of_a_jsonl_that_are_no_rows_are_told_and_empty_ones_are_none(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1}\n\nno json\n[1]\n' + "[" * 100_000 + '\n{"n": 2}', "utf-8")
    assert list(rows(path)) == [
        (1, {"n": 1}),
        *((n, "the line is no JSON object") for n in (3, 4, 5)),
        (6, {"n": 2}),
    ]


def test_rows_of_a_csv_that_do_not_fit_its_columns_are_told(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('name,text\na,b,c\na\na,b,,\n"a\nb",c\n\nx,"open\n', "utf-8")
    found = dict(rows(path))
    assert found[2] == "3 cells under 2 columns; put a caption that has commas in quotes"
    assert found[3] == "1 cells under 2 columns; write empty ones too"
    assert found[4] == {"name": "a", "text": "b"}
    assert found[6] == {"name": "a\nb", "text": "c"}
    assert str(found[8]).startswith("lines 8 to 8: ")
    assert str(found[8]).endswith("look for a quote that nothing closes")
    assert len(found) == 5


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("name", "text"), [("a.csv", "text\nGröße 猫\n"), ("a.jsonl", '{"text": "Größe 猫"}\r\n')])
def test_texts_are_read_in_the_encodings_that_programs_write(tmp_path, name, text, encoding):
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert [row for _, row in rows(tmp_path / name)] == [{"text": "Größe 猫"}]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("gone.csv", None, r"gone\.csv cannot be read: No such file or directory\.$"),
        ("a.xlsx", b"", r"a\.xlsx is no table; give a \.jsonl, \.csv or \.parquet\.$"),
        ("latin.csv", "text\ncafé\n".encode("latin-1"), r"latin\.csv cannot be read .*; save it as UTF-8\.$"),
        ("latin.jsonl", '{"t": "é"}'.encode("latin-1"), r"latin\.jsonl cannot be read .*; save it as UTF-8\.$"),
        ("torn.parquet", b"PAR1 no more", r"torn\.parquet is no readable parquet file .*; save it again\.$"),
        ("empty.parquet", b"", r"empty\.parquet is no readable parquet file .*; save it again\.$"),
    ],
)
def test_a_file_that_is_no_table_is_one_sentence(tmp_path, name, content, told):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="parquet is read by pyarrow, which is not installed")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=told) as caught:
        list(rows(tmp_path / name))
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_what_a_reader_does_with_a_row_is_not_blamed_on_the_table(tmp_path):
    def refuse(row):
        raise PermissionError

    with pytest.raises(PermissionError):
        list(map(refuse, rows(table(tmp_path, "csv"))))


def test_parquet_without_pyarrow_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(LibraryError, match=r"pip install pyarrow, or save it as \.jsonl\.$"):
        list(rows(tmp_path / "a.parquet"))
