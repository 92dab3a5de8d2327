"""Fixtures for all tests: a project in a temporary folder, a tiny base model, a Dagster instance, and what is only on
some machines (the WikiSQL archive, a browser)."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from t2s_assets_tests import hosts
from t2s_assets_tests.instance import Instance, make_instance
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.serving import save_served
from t2s_assets_tests.tiny import save_tiny_base

# A busy machine is slow, not wrong.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

ROOT = Path(__file__).resolve().parents[1]
_ARCHIVE_VARIABLE = "T2S_WIKISQL_ARCHIVE"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# In the names of groups that train, or start Dagster and browsers.
_LONG = ("instance", "/training/", "test_ranks", "test_webserver", "test_benchmarks", "test_browser")
_left_out = pytest.StashKey[list[str]]()


def archive_path() -> Path:
    """Where the WikiSQL archive is, or would be."""
    named = os.environ.get(_ARCHIVE_VARIABLE)
    return Path(named) if named else ROOT.parent / "shared" / "wikisql" / "data.tar.bz2"


def browser_path() -> str | None:
    """A Chromium on this machine, or None."""
    return next((found for name in _BROWSERS if (found := shutil.which(name))), None)


@dataclass(frozen=True)
class Need:
    """What some tests need and not every machine has."""

    marker: str
    fixture: str
    required_by: str
    is_there: Callable[[], bool]
    missing: Callable[[], str]


NEEDS = (
    Need(
        marker="wikisql",
        fixture="wikisql_archive",
        required_by="T2S_REQUIRE_WIKISQL",
        is_there=lambda: archive_path().exists(),
        missing=lambda: f"the WikiSQL archive, which is not at {archive_path()}; set {_ARCHIVE_VARIABLE} to run them",
    ),
    Need(
        marker="browser",
        fixture="chromium",
        required_by="T2S_REQUIRE_BROWSER",
        is_there=lambda: browser_path() is not None,
        missing=lambda: f"a browser, and none of {', '.join(_BROWSERS)} is on the PATH; install one to run them",
    ),
    Need(
        marker="ray",
        fixture="ray_node",
        required_by="T2S_REQUIRE_RAY",
        is_there=lambda: all(find_spec(name) is not None for name in ("ray", "dagster_ray")),
        missing=lambda: "Ray and dagster-ray, which are not installed; `make test-ray` installs them and runs these",
    ),
    Need(
        marker="hosts",
        fixture="hosts",
        required_by="T2S_REQUIRE_HOSTS",
        is_there=hosts.can_be_made,
        missing=lambda: "network namespaces, which root makes on Linux with iproute2 and util-linux",
    ),
)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Nothing that is required is left out in silence."""
    for need in NEEDS:
        if os.environ.get(need.required_by) == "1" and not need.is_there():
            raise pytest.UsageError(f"{need.required_by}=1 and tests need {need.missing()}")


def pytest_configure(config: pytest.Config) -> None:
    """The compiled kernels are kept in one folder: each project of a test would compile its own, for 10 s and more."""
    if cache := getattr(config, "cache", None):
        os.environ.setdefault("NUMBA_CACHE_DIR", str(cache.mkdir("kernels")))


@pytest.hookimpl(tryfirst=True, specname="pytest_collection_modifyitems")
def pytest_group_items(items: list[pytest.Item]) -> None:
    """Tests of one file run in one process, and so do all that share the Dagster instance, which is slow to make.

    Those that take long come first, so that no process is left with one of them at the end.
    """
    for item in items:
        group = "instance" if "instance" in getattr(item, "fixturenames", ()) else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: not any(long in item.get_closest_marker("xdist_group").args[0] for long in _LONG))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs something that is not here."""
    config.stash[_left_out] = []
    for need in NEEDS:
        needing = [
            i for i in items if i.get_closest_marker(need.marker) or need.fixture in getattr(i, "fixturenames", ())
        ]
        if not needing or need.is_there():
            continue
        config.stash[_left_out].append(f"{len(needing)} tests left out: they need {need.missing()}")
        config.hook.pytest_deselected(items=needing)
        items[:] = [i for i in items if i not in needing]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(_left_out, [])
    if config.getoption("numprocesses", None):  # this process collected nothing itself
        lines = [f"tests left out: they need {need.missing()}" for need in NEEDS if not need.is_there()]
    for line in lines:
        terminalreporter.write_line(line, yellow=True)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Sums in one order, so that equal trainings are equal to the bit; for child processes too."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may have over 100 kB: a write past that fails as on a full disk, in the middle of the weights."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def heard() -> Iterator[None]:
    """Signals are heard as in a command of a shell: a script's process in the background ignores SIGINT, and Dagster,
    where a test ran it here before, has a handler of its own for SIGTERM."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium."""
    found = browser_path()
    assert found is not None  # tests that ask for it are left out otherwise
    return found


@pytest.fixture(scope="session")
def wikisql_archive() -> Path:
    """WikiSQL's data.tar.bz2, or its unpacked folder."""
    return archive_path()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Llama and its tokenizer, in transformers' layout."""
    return save_tiny_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def project_files(tmp_path: Path) -> ProjectFiles:
    """An empty project in a temporary folder, to be filled by the test."""
    return ProjectFiles(tmp_path)


@pytest.fixture
def shop(project_files: ProjectFiles, tiny_base: Path) -> ProjectFiles:
    """A project with a small dataset `shop` in WikiSQL's layout, and its experiment `tiny` on the tiny base."""
    project_files.dataset("shop")
    project_files.experiment("shop", "tiny", base=tiny_base)
    return project_files


@pytest.fixture(scope="session")
def served(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> ProjectFiles:
    """A project with adapters that answer, not to be changed by tests."""
    return save_served(ProjectFiles(tmp_path_factory.mktemp("served")), tiny_base)


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[Instance]:
    """A Dagster instance of its own with the dataset `towns`, whose group the command line has materialized."""
    made = make_instance(tmp_path_factory.mktemp("instance"), tiny_base, settings=ROOT / "storage/dagster/dagster.yaml")
    yield made
    made.stop()


@pytest.fixture(scope="session")
def webserver(instance: Instance) -> Iterator[str]:
    """The address of `dagster dev` on that instance."""
    yield instance.serve(ROOT / "workspace.yaml")
    instance.stop()
