"""The folders that assets read and write, as a Dagster resource."""

from pathlib import Path

import dagster as dg

from t2s_assets.text2sql.storage import Project


class ProjectFolders(dg.ConfigurableResource):
    """`configs/` and `storage/` of this checkout, or others where `T2S_CONFIGS` and `T2S_STORAGE` say so."""

    configs: str
    storage: str

    @classmethod
    def of(cls, project: Project) -> "ProjectFolders":
        """The resource for a project's folders."""
        return cls(configs=str(project.configs), storage=str(project.storage))

    @property
    def project(self) -> Project:
        """The library's view of the same folders."""
        return Project(Path(self.configs), Path(self.storage))
