"""How far long work with questions is, and when it ends."""

from __future__ import annotations

# Questions are answered side by side: of the first ones, the time went into those beside them too.
_SIDE_BY_SIDE = 32


def progress_line(done: int, total: int, seconds: float, before: int = 0) -> str:
    """For a terminal or a log: the count, and once it tells anything, the pace and the minutes left.

    done: out of `total`, of which `before` were there at the start. seconds: since then.
    """
    line = f"{done:,} of {total:,}"
    if done - before < min(_SIDE_BY_SIDE, total - before) or seconds <= 0:
        return line
    pace = (done - before) / seconds
    return f"{line}, {pace:.1f} a second, {(total - done) / pace / 60:.1f} min left"
