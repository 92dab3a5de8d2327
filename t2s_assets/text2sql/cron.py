"""Cron schedules of five fields, checked where they are written: one that Dagster refuses would stop all of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_PART = re.compile(r"(?:\*|(?P<low>\w+)(?:-(?P<high>\w+))?)(?:/(?P<step>[0-9]{1,2}))?")


@dataclass(frozen=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def values(self, text: str) -> set[int]:
        """The values that a field's text stands for. Raises ValueError."""
        return {value for part in text.split(",") for value in self._part(part)}

    def _part(self, text: str) -> range:
        match = _PART.fullmatch(text)
        low = high = step = None
        if match:
            low = self.low if match["low"] is None else self._number(match["low"])
            single = match["low"] is not None and match["high"] is None and match["step"] is None
            high = low if single else self.high if match["high"] is None else self._number(match["high"])
            step = int(match["step"] or 1)
        if low is None or high is None or low > high or not step or step > self.high - self.low:
            named = f" or {self.names[0]} to {self.names[-1]}" if self.names else ""
            raise ValueError(
                f"{text!r} is no {self.name}: {self.low} to {self.high}{named}, as *, N or N-M, /STEP after any, "
                "several joined by commas"
            )
        return range(low, high + 1, step)

    def _number(self, text: str) -> int | None:
        if text.lower() in self.names:
            return self.names.index(text.lower()) + self.low
        return int(text) if re.fullmatch("[0-9]{1,2}", text) and self.low <= int(text) <= self.high else None


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("weekday", 0, 7, _WEEKDAYS),
)


def check_cron(text: str) -> None:
    """Raise ValueError that says what is wrong with a schedule: its form, a value's range, or a day of no month."""
    parts = text.split(" ")
    if len(parts) != len(_FIELDS) or not all(parts):
        raise ValueError(f"five fields with a space between them are wanted: {', '.join(f.name for f in _FIELDS)}")
    _, _, days, months, _ = (field.values(part) for field, part in zip(_FIELDS, parts))
    if min(days) > max(_DAYS[month - 1] for month in months):
        raise ValueError(f"no month of {parts[3]!r} has a day of {parts[2]!r}; choose others, or * for the day")
