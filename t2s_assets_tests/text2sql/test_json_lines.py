"""Rows in a JSONL file: whatever a kill left of it, no other row is lost."""

from __future__ import annotations

from pathlib import Path

from t2s_assets.text2sql.json_lines import append_rows, whole_rows

ROWS = [{"id": "a", "text": "one\ntwo"}, {"id": "b", "text": "Zoë\u2028\x85\x0c"}]
NEXT = {"id": "c", "text": "達"}


def test_what_is_added_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "of" / "a run" / "rows.jsonl"
    assert whole_rows(path) == []
    for row in ROWS:
        append_rows(path, [row])
    append_rows(path, [])
    assert whole_rows(path, "id", "text") == ROWS


def test_wherever_a_kill_cuts_a_row_only_that_one_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, ROWS)
    written = path.read_bytes()
    first = written.index(b"\n") + 1
    for size in range(len(written)):
        path.write_bytes(written[:size])
        # A row that lacks its end of line alone is whole.
        whole = [row for row, end in zip(ROWS, (first - 1, len(written) - 1)) if size >= end]
        assert whole_rows(path) == whole, size
        append_rows(path, [NEXT])
        assert whole_rows(path) == [*whole, NEXT], size


def test_what_is_no_row_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'[1]\n"id text"\n\n\xff\xfe\n{"id": 1}\n{"text": 1, "id": null}\n')
    assert whole_rows(path, "id", "text") == [{"id": None, "text": 1}]
