"""torchrun, which shows no traceback of its own: when it is told to end, where a rank failed and has said why, or where
nodes do not meet.

python -m t2s_assets.text2sql.processes.torchrun   takes the arguments of   python -m torch.distributed.run
"""

from __future__ import annotations

import logging
import signal
import sys
from typing import Any


def main() -> int:
    """The status to end with: a shell's for a signal, or torchrun's own."""
    try:
        from torch.distributed import DistError, run
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.elastic.rendezvous import RendezvousError

        for name in ("agent.server.api", "multiprocessing.api"):
            logging.getLogger(f"torch.distributed.elastic.{name}").addFilter(_is_news)
        try:
            run.main()
        except SignalException as e:
            return 128 + e.sigval
        except ChildFailedError as e:
            # Beside one that ended otherwise, torchrun itself may have ended these.
            first = {rank: f for rank, f in e.failures.items() if f.exitcode != -signal.SIGTERM} or e.failures
            for rank, failure in sorted(first.items()):
                if said := _ended(failure):
                    print(f"error: rank {rank} {said}", flush=True)
            return 1
        except (RendezvousError, DistError) as e:
            why = ": ".join(filter(None, [type(e).__name__, " ".join(str(e).split())]))
            print(
                f"error: this node did not meet the others, or lost them ({why}); see that launch.rendezvous.endpoint "
                "can be reached, and give the same command on every node within timeout_seconds",
                flush=True,
            )
            return 1
    except KeyboardInterrupt:  # before there are ranks
        return 128 + signal.SIGINT
    return 0


def _ended(failure: Any) -> str | None:
    """How a rank ended that could not say so itself; None for one that could, which ends with status 1."""
    if failure.exitcode == -signal.SIGKILL:
        return f"(process {failure.pid}) was killed, as the system does where memory runs out"
    if failure.exitcode < 0:
        return f"(process {failure.pid}) was ended by {failure.signal_name()}"
    return None if failure.exitcode == 1 else f"(process {failure.pid}) ended with status {failure.exitcode}"


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a line says more than that a signal came and was passed on, or that a rank failed."""
    told = ("Received %s death signal", "Sending process %s closing signal", "failed (exitcode: %s)")
    return not str(record.msg).startswith(told)


if __name__ == "__main__":
    sys.exit(main())
