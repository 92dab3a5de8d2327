"""Dataset files, `configs/<dataset>/dataset.yaml`: WikiSQL's layout, or a dataset of one's own (docs/own-data.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import sqlglot
from pydantic import Field, field_validator, model_validator

from t2s_assets.text2sql.config_files import Fraction, Section, Settings, read_yaml, validated
from t2s_assets.text2sql.cron import check_cron
from t2s_assets.text2sql.errors import ConfigError


class BundledSource(Section):
    """The data that ships inside the package."""

    kind: Literal["bundled"]


class LocalSource(Section):
    """A WikiSQL archive (`.tar.bz2`, or any tar) or its unpacked folder on this machine."""

    kind: Literal["local"]
    path: str = Field(description="A path; $VARIABLES and ~ are expanded; relative to the dataset file.")


class UrlSource(Section):
    """A WikiSQL archive behind HTTP(S), downloaded once into the storage folder."""

    kind: Literal["url"]
    url: str = Field(pattern=r"^https?://", description="Of the archive.")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="Checked after the download.")


class HubSource(Section):
    """WikiSQL on the Hugging Face Hub, from its converted Parquet files."""

    kind: Literal["hub"]
    repo: str = Field(
        "Salesforce/wikisql",
        min_length=1,
        description="Or a local copy of its Parquet files: a path that starts with / . ~ or a $VARIABLE.",
    )
    revision: str = Field("refs/convert/parquet", description="The loading script of `main` is dead on datasets >= 4.")

    @property
    def is_local(self) -> bool:
        """Whether `repo` is a path on this machine."""
        return self.repo.startswith(("/", ".", "~", "$"))

    @model_validator(mode="after")
    def _a_folder_has_no_revision(self) -> HubSource:
        if self.is_local and "revision" in self.model_fields_set:
            raise ValueError("a local copy has no revision; remove it")
        return self


Source = Annotated[BundledSource | LocalSource | UrlSource | HubSource, Field(discriminator="kind")]


class Retrain(Section):
    """The schedule that retrains one experiment; it is off until switched on in Dagster."""

    experiment: str = Field(description="The name of its file, without .yaml.")
    cron: str = Field("0 3 * * 0", description="Five cron fields, UTC.")

    @field_validator("cron")
    @classmethod
    def _is_a_schedule(cls, value: str) -> str:
        check_cron(value)
        return value


class Targets(Settings):
    """What EM and EX on the test questions are to be over, and an adapter under; a check warns where one is not."""

    em: float | None = Field(None, ge=0, lt=1, description="Exact match, a share.")
    ex: float | None = Field(None, ge=0, lt=1, description="Execution accuracy, a share.")
    adapter_mb: float = Field(
        100.0, gt=0, description="Size of an adapter, MB of 10^6 bytes: what would be larger is not trained."
    )

    @property
    def given(self) -> dict[str, float]:
        """Those of measures that are set, by measure."""
        return {name: target for name, target in (("em", self.em), ("ex", self.ex)) if target is not None}


class WikiSQLDataset(Section):
    """`dataset.yaml` of data in WikiSQL's layout: one table a question, and queries of WikiSQL's sketch."""

    reader: Literal["wikisql"] = "wikisql"
    description: str = Field(min_length=1, description="What the data is, for whoever reads the list of datasets.")
    source: Source = Field(description="Where it comes from.")
    targets: Targets = Targets()
    retrain: Retrain | None = None


class SplitSettings(Settings):
    """How questions without a split of their own are dealt out; what is left over trains."""

    validation: Fraction = Field(0.1, description="Share of the questions.")
    test: Fraction = Field(0.2, description="Share of the questions.")
    seed: int = Field(17, ge=0, description="Of the dealing.")

    @model_validator(mode="after")
    def _something_trains(self) -> SplitSettings:
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation and test are shares that leave some for training; got {self.validation} + {self.test}"
            )
        return self


class OwnDataset(Section):
    """`dataset.yaml` of a dataset of one's own: databases with any number of tables, and questions with SQL text."""

    reader: Literal["own"]
    description: str = Field(min_length=1, description="What the data is, for whoever reads the list of datasets.")
    databases: str | dict[str, str] = Field(
        min_length=1,
        description="A DuckDB file, a SQLite file, a folder of CSV and Parquet files, or one of databases, each as "
        "NAME/NAME.sqlite; or a mapping of names to such paths; $VARIABLES and ~ are expanded; relative to the dataset "
        "file.",
    )
    questions: str = Field(min_length=1, description="JSON objects, one a line or in one array; a path as above.")
    dialect: str = Field("duckdb", description="What the questions' SQL is written in: a dialect of sqlglot.")
    split: SplitSettings = SplitSettings()
    targets: Targets = Targets()
    retrain: Retrain | None = None

    @field_validator("dialect")
    @classmethod
    def _known_dialect(cls, value: str) -> str:
        known = sorted(name.value for name in sqlglot.Dialects if name.value)
        if value not in known:
            raise ValueError(f"not among {', '.join(known)}")
        return value


DatasetConfig = WikiSQLDataset | OwnDataset

_READERS: dict[str, type[WikiSQLDataset] | type[OwnDataset]] = {"wikisql": WikiSQLDataset, "own": OwnDataset}


def read_dataset(path: Path) -> DatasetConfig:
    """The dataset file at `path`, by its `reader`.

    Raises:
        ConfigError: the file is missing or no YAML mapping, or breaks rules: every one of them is named.
    """
    content: dict[str, Any] = read_yaml(path, OwnDataset.model_fields)
    reader = content.get("reader", "wikisql")
    if not isinstance(reader, str) or reader not in _READERS:
        raise ConfigError(f"{path}: 1 problem\n  reader: one of {', '.join(_READERS)} is wanted; got {reader!r}")
    return validated(_READERS[reader], content, path)
