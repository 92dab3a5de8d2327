"""Where questions and tables come from. `read_source` follows the dataset's config and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from t2s_assets.text2sql.config_files import expand_path
from t2s_assets.text2sql.dataset_config import BundledSource, HubSource, LocalSource, UrlSource, WikiSQLDataset
from t2s_assets.text2sql.datasets.download import download
from t2s_assets.text2sql.datasets.huggingface import read_hub
from t2s_assets.text2sql.datasets.wikisql import Source, read_wikisql
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.storage import content_hash

MINI = Path(__file__).parent / "mini"


def read_source(
    config: WikiSQLDataset, *, folder: Path, downloads: Path, log: Callable[[str], None] = lambda line: None
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
            # By address: another URL whose file has the same name is another file.
            name = re.sub(r"[^\w.-]", "_", url.split("?")[0].rsplit("/", 1)[-1]).lstrip(".") or "archive"
            archive = download(url, downloads / content_hash(url) / name, sha256=sha256, log=log)
            try:
                return read_wikisql(archive, log=log)
            except DataError as e:
                raise DataError(f"{e}\nIt came from {url}; remove {archive} to download it again") from e
        case HubSource() as hub:
            return read_hub(hub, folder=folder, log=log)
