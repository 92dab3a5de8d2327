"""Where questions and tables come from. `read_source` follows the dataset's config and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from t2s_assets.text2sql.config import BundledSource, DatasetConfig, HubSource, LocalSource, UrlSource, expand_path
from t2s_assets.text2sql.datasets.download import download
from t2s_assets.text2sql.datasets.huggingface import read_hub
from t2s_assets.text2sql.datasets.wikisql import Source, read_wikisql

MINI = Path(__file__).parent / "mini"


def read_source(
    config: DatasetConfig, *, folder: Path, downloads: Path, log: Callable[[str], None] = lambda line: None
) -> Source:
    """Every table and question of a dataset; `folder` is its config folder, `downloads` keeps fetched archives.

    Raises:
        DataError, ConfigError: the one source that the config names cannot be read. There is no second choice.
    """
    match config.source:
        case BundledSource():
            return read_wikisql(MINI, log=log)
        case LocalSource(path=path):
            return read_wikisql(expand_path(path, folder), log=log)
        case UrlSource(url=url, sha256=sha256):
            name = url.rsplit("/", 1)[-1].split("?")[0] or "archive"
            return read_wikisql(download(url, downloads / name, sha256=sha256, log=log), log=log)
        case HubSource() as hub:
            return read_hub(hub, log=log)
