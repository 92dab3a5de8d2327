"""A Dagster instance in a temporary folder, used as people use one: through its commands and its web server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from functools import cached_property
from pathlib import Path
from typing import Any

from t2s_assets_tests.processes import kill_all, processes_with, wait_for
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import add_experiment, add_towns

DATASET, EXPERIMENT, ENDLESS = "towns", "tiny", "endless"
_LOCATION = "t2s_assets"
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def make_instance(folder: Path, base: Path, *, settings: Path) -> Instance:
    """An instance with `settings` as its dagster.yaml, over a project with experiments `tiny` and `endless`."""
    files = add_towns(ProjectFiles(folder), base, experiment=EXPERIMENT)
    add_experiment(files, base, ENDLESS, max_steps=1_000_000, save_steps=20, eval_steps=20)
    home = folder / "home"
    home.mkdir()
    shutil.copy(settings, home / "dagster.yaml")
    return Instance(files, home)


class Instance:
    """Commands and a server over one DAGSTER_HOME. `stop` ends whatever was started and is safe to call twice."""

    def __init__(self, files: ProjectFiles, home: Path) -> None:
        self.files, self.home = files, home
        self.project = files.project
        self.address = ""
        self._server: subprocess.Popen[bytes] | None = None
        self.environment = {
            **os.environ,
            "DAGSTER_HOME": str(home),
            "T2S_CONFIGS": str(self.project.configs),
            "T2S_STORAGE": str(self.project.storage),
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
        }

    def dagster(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """One `dagster` command, in a folder of its own: a .env file in the working folder would set DAGSTER_HOME."""
        return subprocess.run(
            [sys.executable, "-m", "dagster", *arguments],
            cwd=self.files.root,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=900,
        )

    def materialize(self, select: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`dagster asset materialize` as the README writes it."""
        return self.dagster("asset", "materialize", "-m", "t2s_assets.definitions", "--select", select, *arguments)

    @cached_property
    def made(self) -> subprocess.CompletedProcess[str]:
        """The command that materializes the whole group for one experiment; run once."""
        return self.materialize(f"group:{DATASET}", "--partition", EXPERIMENT)

    # ------------------------------------------------------------------------------------------- the web server

    def serve(self, workspace: Path) -> str:
        """Start `dagster dev` and return its address once it answers and has loaded the definitions."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = ["-m", "dagster", "dev", "-w", str(workspace), "-h", "127.0.0.1", "-p", str(port)]
        with (self.home / "server.log").open("wb") as log:
            self._server = subprocess.Popen(
                [sys.executable, *command], cwd=self.files.root, env=self.environment, stdout=log, stderr=log
            )
        self.address = f"http://127.0.0.1:{port}"
        wait_for(self._loaded, seconds=180, what="dagster dev to answer", every=0.5)
        return self.address

    def _loaded(self) -> bool:
        assert self._server is not None
        if self._server.poll() is not None:
            raise RuntimeError((self.home / "server.log").read_text()[-3000:])
        try:
            found = self.graphql("{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus } } } }")
        except (urllib.error.URLError, OSError):
            return False
        entries = found["workspaceOrError"]["locationEntries"]
        return [(e["name"], e["loadStatus"]) for e in entries] == [(_LOCATION, "LOADED")]

    def graphql(self, query: str, **variables: Any) -> Any:
        """The `data` of one GraphQL request. Raises RuntimeError on errors."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.address}/graphql", body, {"Content-Type": "application/json"})
        try:
            with _direct.open(request, timeout=60) as answer:
                content = json.load(answer)
        except urllib.error.HTTPError as e:
            raise RuntimeError(e.read().decode()) from e
        if "errors" in content:
            raise RuntimeError(content["errors"])
        return content["data"]

    def launch(self, *assets: str, partition: str) -> str:
        """Materialize assets as the page's button does. Returns the run's id."""
        selector = {
            "repositoryLocationName": _LOCATION,
            "repositoryName": "__repository__",
            "jobName": "__ASSET_JOB",
            "assetSelection": [{"path": [DATASET, a]} for a in assets],
            "assetCheckSelection": None,
        }
        parameters = {
            "selector": selector,
            "mode": "default",
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}]},
        }
        query = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
            __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
            ... on RunConfigValidationInvalid { errors { message } } ... on InvalidSubsetError { message } } }"""
        found = self.graphql(query, p=parameters)["launchRun"]
        if "run" not in found:
            raise RuntimeError(found)
        return found["run"]["runId"]

    def status(self, run: str) -> str:
        """A run's status."""
        query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        return self.graphql(query, id=run)["runOrError"]["status"]

    def finished(self, run: str, *, seconds: float) -> str:
        """The status of a run once it has ended."""
        ended = ("SUCCESS", "FAILURE", "CANCELED")

        def ask() -> str | None:
            status = self.status(run)
            return status if status in ended else None

        return wait_for(ask, seconds=seconds, what=f"run {run} to end", every=0.5)

    # --------------------------------------------------------------------------------------------------- the end

    @property
    def marker(self) -> str:
        """What the environment of everything that this instance starts holds."""
        return f"DAGSTER_HOME={self.home}"

    def stop(self) -> None:
        """End the server as a terminal would, and kill whatever that leaves."""
        if self._server is not None and self._server.poll() is None:
            self._server.send_signal(signal.SIGINT)
            try:
                self._server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
        self._server = None
        if processes_with(self.marker):
            kill_all(self.marker)
