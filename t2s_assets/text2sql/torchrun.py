"""torchrun, which ends without a traceback when it is told to end: what was stopped, the ranks have said.

python -m t2s_assets.text2sql.torchrun   takes the arguments of   python -m torch.distributed.run
"""

from __future__ import annotations

import logging
import sys


def main() -> int:
    """The status to end with: a shell's for a signal, or torchrun's own."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException

    for told in ("agent.server.api", "multiprocessing.api"):  # who was told what, and was passed it on
        logging.getLogger(f"torch.distributed.elastic.{told}").setLevel(logging.ERROR)
    try:
        run.main()
    except SignalException as e:
        return 128 + e.sigval
    return 0


if __name__ == "__main__":
    sys.exit(main())
