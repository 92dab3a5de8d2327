"""`t2s`: the command line over `t2s_assets.text2sql`.

Commands import the library when they run, so that `t2s --help` needs neither torch nor DuckDB.
"""

from __future__ import annotations

import os
import sys
import warnings

import typer

from t2s_assets.cli import asking, compare, data, exporting, pipeline

app = typer.Typer(
    name="t2s",
    help="Fine-tune language models for text-to-SQL, and ask them. Experiments are named DATASET/EXPERIMENT.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data.register(app)
pipeline.register(app)
compare.register(app)
asking.register(app)
exporting.register(app)


def main() -> None:
    """Entry point. Status 0; 1 after an error that a message explains; 2 for wrong usage; 130 after Ctrl-C."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    # What these libraries deprecate of one another is nothing that a user could mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft|torch")
    from t2s_assets.text2sql.errors import T2SError
    from t2s_assets.text2sql.processes.stopping import interrupts_kept

    try:
        with interrupts_kept():
            app()
    except KeyboardInterrupt:
        sys.exit(130)
    except UnicodeEncodeError as e:
        if e.encoding == "utf-8":
            raise  # half a character, which no output could show
        from t2s_assets.cli import show

        missing = e.object[e.start : e.end]
        show.say(f"error: the output's encoding, {sys.stdout.encoding}, has no {missing!r}; set PYTHONIOENCODING=utf-8")
        sys.exit(1)
    except (T2SError, OSError) as e:
        from t2s_assets.cli import show

        if isinstance(e, OSError) and e.strerror:
            e = T2SError(f"{e.filename}: {e.strerror}" if e.filename is not None else e.strerror)
        show.say(f"error: {e}")
        sys.exit(1)
