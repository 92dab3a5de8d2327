"""Files of questions: JSON objects a line or in one array, with our keys or those of Spider and BIRD."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from t2s_assets.text2sql.text_encoding import in_utf8

KEYS = ("question", "sql", "database", "tables", "split", "id")

_THEIRS = {"query": "sql", "SQL": "sql", "db_id": "database"}
_NOT_TAKEN = {
    "evidence": "hints that BIRD's questions come with; prompts have no place for them, and some questions cannot be "
    "answered without",
    "difficulty": "BIRD's",
    "question_id": "BIRD's; `id` gives one",
    "query_toks": "Spider's",
    "query_toks_no_value": "Spider's",
    "question_toks": "Spider's",
    "sql": "Spider's parsed form of `query`",
}
"""Keys of Spider and BIRD that say nothing to us, and what they are."""


class QuestionFile:
    """A file's records, each with its line, or in an array with its place there, from 1.

    It is UTF-8, or UTF-16 with its mark.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        self._content = content = in_utf8(content)
        self.is_array = content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["

    def records(self, problems: list[str]) -> Iterator[tuple[int, Any]]:
        """Each record that is JSON; what is none is added to `problems`."""
        if self.is_array:
            yield from enumerate(self._array(problems), 1)
            return
        for number, raw in enumerate(self._content.split(b"\n"), 1):
            if raw.strip():
                where = f"{self.path}:{number}"
                try:
                    yield number, json.loads(raw.decode("utf-8-sig"))
                except UnicodeDecodeError as e:
                    problems.append(f"{where}: not UTF-8 ({e.reason} at byte {e.start}); save the file as UTF-8")
                except json.JSONDecodeError as e:
                    problems.append(f"{where}: not JSON ({e}); is the line cut short? {raw[:60]!r}")
                except (ValueError, RecursionError) as e:
                    problems.append(f"{where}: {e}")

    def _array(self, problems: list[str]) -> list[Any]:
        try:
            found = json.loads(self._content.decode("utf-8-sig"))
        except UnicodeDecodeError as e:
            problems.append(f"{self.path}: not UTF-8 ({e.reason} at byte {e.start}); save the file as UTF-8")
        except (ValueError, RecursionError) as e:
            problems.append(f"{self.path}: begins as a JSON array and is none ({e}); is the file cut short?")
        else:
            assert isinstance(found, list)  # what begins with [ and is JSON is one
            return found
        return []

    def without(self, numbers: set[int]) -> bytes:
        """The file's content without some records, as lines, each of which has its record's number."""
        if self.is_array:
            records = enumerate(self._array([]), 1)
            return b"\n".join(b"" if n in numbers else json.dumps(record).encode() for n, record in records)
        lines = enumerate(self._content.split(b"\n"), 1)
        return b"\n".join(b"" if number in numbers else line for number, line in lines)

    def with_more(self, records: Sequence[Mapping[str, Any]]) -> bytes:
        """The file's content with records behind its own, in UTF-8."""
        written = [json.dumps(record, ensure_ascii=False) for record in records]
        own = self._content.rstrip()
        if not self.is_array:
            return b"".join(line + b"\n" for line in [*([own] if own else []), *(w.encode() for w in written)])
        before = own.removesuffix(b"]").rstrip()
        return before + (b"\n" if before.endswith(b"[") else b",\n") + ",\n".join(written).encode() + b"\n]\n"

    def databases(self) -> set[str]:
        """The databases that its records name."""
        named = (known_keys(record)[0].get("database") for _, record in self.records([]) if isinstance(record, dict))
        return {name for name in named if isinstance(name, str)}


def known_keys(record: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A record with Spider's and BIRD's keys as ours, and its keys that are not taken."""
    found = dict(record)
    left: list[str] = []
    if isinstance(found.get("query"), str) and not isinstance(found.get("sql"), str):
        if found.pop("sql", None) is not None:  # Spider's parsed form
            left.append("sql")
    for theirs, ours in _THEIRS.items():
        if theirs in found and ours not in found:
            found[ours] = found.pop(theirs)
    unknown = [key for key in found if key not in KEYS and not mistaken_for(key)]
    for key in unknown:
        del found[key]
    return found, left + unknown


def mistaken_for(key: str) -> str:
    """The key of ours that one of another name is likely meant for, empty where there is none."""
    if key in KEYS or key in _NOT_TAKEN:
        return ""
    if key in _THEIRS:  # beside the one that it would be read as
        return _THEIRS[key]
    return next(iter(get_close_matches(key.lower(), KEYS, 1, 0.75)), "")


def told(path: Path, left: Counter[str]) -> Iterator[str]:
    """A line for each key that is not taken."""
    for key, n in left.items():
        what = _NOT_TAKEN.get(key, f"no key of ours; those are {', '.join(KEYS)}")
        yield f"{path.name}: key {key!r} of {n:,} questions is not read ({what})"
