"""Two hosts with an address and a name each, on one machine: network namespaces of Linux, joined by a cable."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path


def can_be_made() -> bool:
    """Whether this process may make them: on Linux, as root, with the programs for it."""
    return all(map(shutil.which, ("ip", "unshare", "mount"))) and os.geteuid() == 0 and _run("ip", "netns", "list") == 0


@dataclass(frozen=True)
class Host:
    """One of them. Its files are this machine's, but for `/etc/hosts`, which is read from `names`."""

    name: str
    namespace: str
    address: str
    names: Path

    def start(self, line: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[str]:
        """A process on this host."""
        own = f"mount --bind {shlex.quote(str(self.names))} /etc/hosts && hostname {self.name}"
        shell = ["sh", "-c", f"{own} && exec {shlex.join(line)}"]
        inside = ["ip", "netns", "exec", self.namespace, "unshare", "--mount", "--uts", *shell]
        return subprocess.Popen(
            inside, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )


@contextmanager
def two_hosts(folder: Path) -> Iterator[list[Host]]:
    """Two hosts that know each other's name, gone with the block; `folder` is for a file of theirs."""
    names = folder / "hosts"
    made = [
        Host(name=f"node{i}", namespace=f"t2s-{os.getpid()}-{i}", address=f"10.77.0.{i + 1}", names=names)
        for i in range(2)
    ]
    names.write_text("127.0.0.1 localhost\n" + "".join(f"{host.address} {host.name}\n" for host in made))
    with ExitStack() as gone:
        for host in made:
            _must("ip", "netns", "add", host.namespace)
            gone.callback(_must, "ip", "netns", "del", host.namespace)
        ends = [f"t2s{os.getpid() % 10**9}{side}" for side in "ab"]
        _must("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for host, end in zip(made, ends):
            _must("ip", "link", "set", end, "netns", host.namespace, "name", "eth0")
            _must("ip", "-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _must("ip", "-n", host.namespace, "link", "set", device, "up")
        yield made


def _run(*line: str) -> int:
    return subprocess.run(line, capture_output=True).returncode


def _must(*line: str) -> None:
    subprocess.run(line, check=True, capture_output=True)
