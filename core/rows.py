r"""Files (and Hub sets) to rows, before anybody asks what the rows mean. A row that cannot be read is a BadRow, never dropped.

JSON Lines, JSON, CSV and TSV, Parquet; the text formats also gzipped. UTF-8 only, split on "\n" only: real prompts hold U+2028.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Never, cast

from core.methods import UserError

MAX_ROW_BYTES = 10_000_000
MAX_DOCUMENT_BYTES = 500_000_000
"""A JSON array is read whole; JSON Lines has no such limit."""
FREE_UNPACKED = 100_000_000
MOST_UNPACKED = 200
"""A gzipped file may unpack to that many bytes, or to so many times its size: texts shrink to a tenth, a bomb to a thousandth."""
RAW_CHARS = 200
_KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Row:
    """One row as the file has it. `line`: line of a text file, number of the row in JSON, Parquet and Hub sets; from 1."""

    line: int
    values: dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    """A row that is no example, and why. `raw`: how it begins."""

    file: str
    line: int
    column: str
    reason: str
    raw: str = ""

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}, column {self.column or '-'}: {self.reason}"


def read_rows(path: Path) -> Iterator[Row | BadRow]:
    """All rows of a file, in order. UserError where the file as a whole cannot be read."""
    readers = {"jsonl": _json_lines, "csv": _csv, "json": _json}
    try:
        kind = _kind(path)
        if kind == "parquet":
            yield from _parquet(path)
            return
        with _open(path) as file:
            yield from readers[kind](file, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path.name} is damaged: its gzip data ends or breaks in the middle ({first_line(error)}).") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None


def _kind(path: Path) -> str:
    """jsonl, json, csv or parquet, from the name; UserError for what is no such file."""
    if not os.path.exists(path):  # unlike path.exists(), not upset by a name too long for a file
        raise UserError(f"There is no file {path}; check the path, or upload the file on the Data page.")
    if not path.is_file():
        raise UserError(f"{path} is not a file; give one file (JSON Lines, JSON, CSV or Parquet).")
    name = path.name.lower().removesuffix(".gz")
    kind = _KINDS.get(Path(name).suffix)
    if kind is None:
        raise UserError(f"{path.name} is of no kind that can be read; known: {', '.join(_KINDS)}, and .gz of the text ones.")
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise UserError(f"{path.name} is empty; choose a file that holds rows.")
    if start == b"PK\x03\x04":
        raise UserError(f"{path.name} is a ZIP archive (or a spreadsheet); unpack it, or save it as CSV in UTF-8.")
    if kind == "parquet" and path.name.lower().endswith(".gz"):
        raise UserError(f"{path.name}: Parquet is compressed already; unpack the .gz first.")
    return kind


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return cast("IO[bytes]", io.BufferedReader(_Unpacked(path), 1 << 18)) if zipped else path.open("rb")


class _Unpacked(io.RawIOBase):
    """A gzipped file as it unpacks; stops at one that was made to fill the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = gzip.open(path, "rb")  # noqa: SIM115 - closed with this reader
        self._most = max(FREE_UNPACKED, MOST_UNPACKED * path.stat().st_size)
        self._seen = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read1(len(buffer))
        self._seen += len(data)
        if self._seen > self._most:
            raise UserError(f"{self._path.name} unpacks to more than {MOST_UNPACKED} times its size, which no file of texts does; unpack "
                            "it yourself if it is right.")
        buffer[:len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _lines(file: IO[bytes], name: str) -> Iterator[tuple[int, bytes | None]]:
    r"""(number, line) split on b"\n" alone; None for a line over the limit, which is skipped without being held in memory."""
    for number in itertools.count(1):
        line = file.readline(MAX_ROW_BYTES + 1)
        if not line:
            return
        if number == 1:
            line = _without_mark(line, name)
        if len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_ROW_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        else:
            yield number, line


def _without_mark(start: bytes, name: str) -> bytes:
    """Drop a UTF-8 byte order mark; refuse a UTF-16 one."""
    if start.startswith(_UTF16):
        raise UserError(f"{name} is UTF-16; save it as UTF-8.")
    return start.removeprefix(b"\xef\xbb\xbf")


def _json_lines(file: IO[bytes], path: Path) -> Iterator[Row | BadRow]:
    seen = False
    for number, line in _lines(file, path.name):
        if line is not None and not line.strip():
            continue
        if not seen and line is not None and line.lstrip().startswith(b"["):
            raise UserError(f"{path.name} begins with an array; name it .json, or write one object a line.")
        seen = True
        yield _json_row(line, number, path.name)
    if not seen:
        raise UserError(f"{path.name} holds no rows, only empty lines.")


def _json_row(line: bytes | None, number: int, name: str) -> Row | BadRow:
    if line is None:
        return BadRow(name, number, "", f"the row is longer than {MAX_ROW_BYTES // 1_000_000} MB")
    shown = line[:RAW_CHARS].decode("utf-8", "replace").rstrip("\n")
    try:
        value = parse_json(line)
    except ValueError as error:
        torn = "the line is cut off: it is not whole JSON and no line end follows; " if not line.endswith(b"\n") else ""
        return BadRow(name, number, "", torn + str(error), shown)
    return _object_row(value, number, name)


def _object_row(value: Any, number: int, name: str) -> Row | BadRow:
    if isinstance(value, dict):
        return Row(number, value)
    return BadRow(name, number, "", f"is not an object but {_json_type(value)}", str(value)[:RAW_CHARS])


def parse_json(data: bytes) -> Any:
    """Strict JSON: UTF-8, no NUL bytes, no key twice, no NaN, no half surrogates. ValueError in plain words for the rest."""
    if b"\0" in data:
        raise ValueError(f"holds a NUL byte at position {data.index(0)}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: byte 0x{data[error.start]:02x} at position {error.start}") from None
    try:
        value = json.loads(text, object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at position {error.pos}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if "\\u" in text and re.search(r"\\u[dD][89a-fA-F]", text):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("holds half of a surrogate pair (\\ud800 to \\udfff), which is no character") from None
    return value


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return values


def _no_constant(word: str) -> Never:
    raise ValueError(f"{word} is not JSON")


def _json(file: IO[bytes], path: Path) -> Iterator[Row | BadRow]:
    """An array of objects, an object with one list of objects inside, or (often so named) JSON Lines."""
    data = _without_mark(file.read(MAX_DOCUMENT_BYTES + 1), path.name)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise UserError(f"{path.name} is over {MAX_DOCUMENT_BYTES // 1_000_000} MB, too large for one JSON document; "
                        "write one object a line (.jsonl).")
    if not data.strip():
        raise UserError(f"{path.name} is empty; choose a file that holds rows.")
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
    if len(lines) > 1 and _is_whole_object(lines[0][1]):
        yield from (_json_row(line + b"\n", number, path.name) for number, line in lines)
        return
    try:
        document = parse_json(data)
    except ValueError as error:
        raise UserError(f"{path.name} cannot be read: it {error}. Nothing was read.") from None
    items = _only_list(document, path.name)
    if not items:
        raise UserError(f"{path.name} holds no rows.")
    yield from (_object_row(item, number, path.name) for number, item in enumerate(items, start=1))


def _is_whole_object(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


def _only_list(document: Any, name: str) -> list[Any]:
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        raise UserError(f"{name} holds {_json_type(document)}, not an array of objects.")
    lists = {key: value for key, value in document.items() if isinstance(value, list) and value and isinstance(value[0], dict)}
    turns = {"conversations", "messages"} & lists.keys()
    if len(lists) == 1 and not turns:
        return list(next(iter(lists.values())))
    if not lists or turns:
        return [document]  # a single row
    raise UserError(f"{name} holds {len(lists)} lists ({', '.join(lists)}); keep the one with the rows.")


def _csv(file: IO[bytes], path: Path) -> Iterator[Row | BadRow]:
    csv.field_size_limit(MAX_ROW_BYTES)
    lines = _csv_lines(file, path.name)
    first = next(lines, "")
    if not first.strip():
        raise UserError(f"{path.name} has no header in its first line.")
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
    header = [name.strip() for name in _header(reader, path.name)]
    empty, start = True, reader.line_num + 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            yield BadRow(path.name, start, "", f"is not CSV: {error}" + _until(start, reader.line_num))
            empty, start = False, reader.line_num + 1
            continue
        if cells:
            empty = False
            yield _csv_row(cells, header, start, path.name)
        start = reader.line_num + 1
    if empty:
        raise UserError(f"{path.name} has a header but no rows.")


def _csv_lines(file: IO[bytes], name: str) -> Iterator[str]:
    """Lines as text; bytes that are no UTF-8 stay recognisable, so that only their row is bad."""
    for number, line in _lines(file, name):
        if line is None:
            raise UserError(f"{name}, line {number} is longer than {MAX_ROW_BYTES // 1_000_000} MB; is this a CSV file?")
        yield line.decode("utf-8", "surrogateescape")


def _header(reader: Iterator[list[str]], name: str) -> list[str]:
    try:
        header = next(reader)
    except csv.Error as error:
        raise UserError(f"The first line of {name} is not a CSV header: {error}.") from None
    double = [column for column in header if header.count(column) > 1]
    if double:
        raise UserError(f"{name} has the column {double[0]!r} twice.")
    if any("\udc80" <= letter <= "\udcff" or letter == "\0" for column in header for letter in column):
        raise UserError(f"The header of {name} is not UTF-8 text; save the file as UTF-8.")
    return header


def _csv_row(cells: list[str], header: list[str], line: int, name: str) -> Row | BadRow:
    raw = ",".join(cells)[:RAW_CHARS].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if len(cells) != len(header):
        return BadRow(name, line, "", f"has {len(cells)} cells, the header has {len(header)}", raw)
    for column, cell in zip(header, cells, strict=True):
        if any("\udc80" <= letter <= "\udcff" for letter in cell):
            return BadRow(name, line, column, "is not UTF-8; save the file as UTF-8", raw)
        if "\0" in cell:
            return BadRow(name, line, column, "holds a NUL byte", raw)
    return Row(line, dict(zip(header, cells, strict=True)))


def _until(start: int, end: int) -> str:
    return f" (lines {start} to {end}: an opening quote without its end takes in what follows)" if end > start else ""


def _parquet(path: Path) -> Iterator[Row | BadRow]:
    import pyarrow as arrow  # type: ignore[import-untyped]
    import pyarrow.parquet as parquet  # type: ignore[import-untyped]

    try:
        with parquet.ParquetFile(path) as file:
            if not file.metadata.num_rows:
                raise UserError(f"{path.name} holds no rows.")
            number = 0
            for batch in file.iter_batches(batch_size=1000):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(number, values)
    except (arrow.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path.name} is not a readable Parquet file: {first_line(error)}") from None


def read_hub(dataset_id: str, split: str = "train", *, subset: str | None = None, revision: str | None = None) -> Iterator[Row | BadRow]:
    """Rows of a Hugging Face set, streamed. Needs the network, and a token ($HF_TOKEN) for gated sets."""
    import datasets

    try:
        stream = datasets.load_dataset(dataset_id, name=subset, split=split, revision=revision, streaming=True)
        for number, values in enumerate(stream, start=1):
            yield Row(number, dict(values))
    except Exception as error:  # the library raises a dozen kinds: offline, gated, unknown split, script-based, broken files
        raise UserError(f"The Hub set {dataset_id} (split {split}) cannot be read: {first_line(error)} Check the name, the split and the "
                        "network, set HF_TOKEN if the set is gated, or download its file and import that.") from error


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "an array", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def first_line(error: BaseException) -> str:
    """What an error says, short enough for a sentence."""
    lines = str(error).strip().split("\n")
    return lines[0][:300] if lines[0] else type(error).__name__
