"""torchrun, which ends without a traceback when it is told to end.

python -m t2s_assets.text2sql.torchrun   takes the arguments of   python -m torch.distributed.run
"""

from __future__ import annotations

import logging
import signal
import sys


def main() -> int:
    """The status to end with: a shell's for a signal, or torchrun's own."""
    try:
        from torch.distributed import run
        from torch.distributed.elastic.multiprocessing.api import SignalException

        for name in ("agent.server.api", "multiprocessing.api"):
            logging.getLogger(f"torch.distributed.elastic.{name}").addFilter(_is_news)
        try:
            run.main()
        except SignalException as e:
            return 128 + e.sigval
    except KeyboardInterrupt:  # before there are ranks
        return 128 + signal.SIGINT
    return 0


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line says more than that a signal came and was passed on."""
    return not str(record.msg).startswith(("Received %s death signal", "Sending process %s closing signal"))


if __name__ == "__main__":
    sys.exit(main())
