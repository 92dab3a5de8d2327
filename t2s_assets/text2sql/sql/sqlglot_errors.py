"""What sqlglot raises on text that it cannot read, told as an error of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlglot.errors import SqlglotError

from t2s_assets.text2sql.errors import T2SError


@contextmanager
def sqlglot_errors(kind: type[T2SError], saying: str = "") -> Iterator[None]:
    """Raise whatever sqlglot raises inside as `kind`, its first line after `saying`; our own errors pass.

    Malformed text, as models write it, meets sqlglot with KeyError, AttributeError and others beside its own errors.
    """
    try:
        yield
    except T2SError:
        raise
    except RecursionError as e:
        raise kind(f"{saying}nested too deep") from e
    except SqlglotError as e:
        raise kind(saying + (str(e).splitlines() or [type(e).__name__])[0]) from e
    except Exception as e:
        raise kind(f"{saying}sqlglot fails on it ({type(e).__name__}: {e})") from e
