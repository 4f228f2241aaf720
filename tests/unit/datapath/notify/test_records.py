"""The record: 128 bytes, the same to struct and to numpy."""

import numpy as np

from datapath.notify.records import DTYPE, RECORD


def test_numpy_and_struct_see_the_same_fields() -> None:
    assert DTYPE.itemsize == RECORD.size == 128
    offset = 0
    for field in RECORD.fields:
        kind, at = DTYPE.fields[field.name][:2]  # type: ignore[index]
        assert (at, kind.itemsize) == (offset, field.size)
        offset += field.size


def test_a_record_reads_back_what_was_packed() -> None:
    values: list[int | bytes] = [
        bytes(range(f.count)) if f.kind == "bytes" else 3 + index for index, f in enumerate(RECORD.fields)
    ]
    (row,) = np.frombuffer(RECORD.pack(*values), DTYPE)
    for field, value in zip(RECORD.fields, values, strict=True):
        got = row[field.name]
        assert (bytes(got) if isinstance(value, bytes) else int(got)) == value


def test_verdicts_are_signed() -> None:
    blank = np.zeros(1, DTYPE)
    blank["verdict"] = -133
    assert int(blank["verdict"][0]) == -133
