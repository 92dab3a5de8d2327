"""What is in storage and not in Dagster's event log is reported to it.

The manifests on disk are compared with the latest materializations: what differs in data version, or was made again of
other inputs, is reported with the metadata and the quick checks that the asset itself would give. Nothing is kept but a
hash of both sides, so a restart or a wiped history is made good. What is gone from disk keeps its history.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)
from sqlalchemy.exc import IntegrityError

from t2s_assets.assets import shown
from t2s_assets.event_tags import Event, Input, Partition, made_of_others, tags_of
from t2s_assets.runs import UNFINISHED
from t2s_assets.text2sql.dataset_config import Targets
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.gold.prepared import MADE_OF
from t2s_assets.text2sql.storage import MANIFEST, Project, content_hash, find_manifest

# A folder that is being copied here is taken for whole when nothing in it has changed for so long.
SETTLED_SECONDS = 10.0
# Dagster ends a tick after 60 s; what is left over is the next one's.
TICK_SECONDS = 30.0
# A run whose process was killed may count as running for ever, and what it was to make would never be shown. One that
# lives logs something while it makes an asset, and last when that is written.
SILENT_SECONDS = 1800.0

MADE_BY = "none of the runs recorded here: t2s, another machine, or a copy"
MADE_AGAIN = "made again elsewhere, of other inputs, with the same content"

_MATERIALIZATION = dg.DagsterEventType.ASSET_MATERIALIZATION
_PLANNED = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Watched:
    """An asset of a dataset, and its experiments where it has one partition each."""

    key: dg.AssetKey
    inputs: tuple[dg.AssetKey, ...]
    code_version: str | None
    experiments: tuple[str, ...] | None

    @property
    def dataset(self) -> str:
        return self.key.path[0]

    @property
    def asset(self) -> str:
        return self.key.path[1]

    @property
    def partitions(self) -> tuple[Partition, ...]:
        return (None,) if self.experiments is None else self.experiments


@dataclass(frozen=True)
class Place:
    """An address: an asset, and an experiment where it has several."""

    asset: Watched
    partition: Partition

    def __str__(self) -> str:
        return "/".join([*self.asset.key.path, *([self.partition] if self.partition else [])])

    @property
    def at(self) -> tuple[dg.AssetKey, Partition]:
        return self.asset.key, self.partition


def watched(assets: Iterable[dg.AssetsDefinition]) -> list[Watched]:
    """What there is to know of loaded assets."""
    return [
        Watched(
            key=spec.key,
            inputs=tuple(dep.asset_key for dep in spec.deps),
            code_version=spec.code_version,
            experiments=None if spec.partitions_def is None else tuple(spec.partitions_def.get_partition_keys()),
        )
        for definition in assets
        for spec in definition.specs
    ]


class Tick:
    """One comparison of storage with the event log, asset by asset, inputs first."""

    def __init__(
        self,
        instance: dg.DagsterInstance,
        project: Project,
        assets: Sequence[Watched],
        targets: Mapping[str, Targets],
        log: logging.Logger,
    ) -> None:
        self._instance, self._project, self._targets, self._log = instance, project, targets, log
        self._assets = {asset.key: asset for asset in assets}
        self._until = time.monotonic() + TICK_SECONDS
        self._events: dict[dg.AssetKey, dict[Partition, Event]] = {}
        self._on_disk: dict[dg.AssetKey, set[Partition]] = {key: set() for key in self._assets}
        self._waiting: set[tuple[dg.AssetKey, Partition]] = set()
        self._said: dict[str, list[str]] = {"reported": [], "waiting": [], "not shown": []}

    @property
    def summary(self) -> str:
        """What was done, in a line."""
        parts = [f"{did}: {', '.join(names)}" for did, names in self._said.items() if names]
        return "; ".join(parts) or "everything in storage is shown"

    def run(self, cursor: str | None) -> str:
        """Report what is to be reported. Takes and returns a hash of storage and log as they agreed last, or ''."""
        # In this order: a run that wrote a manifest read here is either unfinished below, or its event is in the log.
        manifests = list(self._manifests())
        busy = self._busy()
        latest = self._latest_ids()
        versions = {str(place): [manifest["data_version"], self._made_of(manifest)] for place, manifest in manifests}
        state = content_hash(versions, {key.to_user_string(): ids for key, ids in latest.items()})
        if state == cursor and not self._said["not shown"]:
            return state
        self._events = {key: self._read(key, ids) for key, ids in latest.items()}
        for place, manifest in manifests:
            try:
                self._compare(place, manifest, busy)
            except Exception as e:  # whatever one folder holds, the others are shown
                self._not_shown(place, e)
        return "" if any(self._said.values()) else state

    # ------------------------------------------------------------------------------------------------------- storage

    def _manifests(self) -> Iterator[tuple[Place, Manifest]]:
        for asset in self._assets.values():
            for partition in asset.partitions:
                place = Place(asset, partition)
                try:
                    manifest = self._manifest(place)
                except Exception as e:  # whatever one folder holds, the others are shown
                    self._not_shown(place, e)
                    continue
                if manifest is not None:
                    self._on_disk[asset.key].add(partition)
                    yield place, manifest

    def _manifest(self, place: Place) -> Manifest | None:
        """That of a place, None where there is nothing. Raises DataError when it is broken."""
        folder, made_by = self._folder(place), f"t2s run {place.asset.dataset}/{place.partition or 'EXPERIMENT'}"
        manifest = find_manifest(folder, made_by=made_by)
        if manifest is None:
            return None
        facts = manifest if isinstance(manifest, dict) else {}
        for name, kind, found in (
            ("data_version", str, facts.get("data_version")),
            (MADE_OF, dict, facts.get(MADE_OF, {})),
        ):
            if not isinstance(found, kind):
                wanted = f"{name}: a {kind.__name__} is wanted; got {found!r}"
                raise DataError(f"{folder / MANIFEST}: {wanted}; make it again with: {made_by}")
        return manifest

    def _folder(self, place: Place) -> Path:
        return self._project.path(place.asset.dataset, place.asset.asset, place.partition)

    @staticmethod
    def _made_of(manifest: Manifest) -> dict[str, Any]:
        """The versions of its inputs, by their assets' names, as far as a manifest tells them."""
        named = {"prompts": manifest.get("prompts_version"), "adapter": manifest.get("adapter_version")}
        return {name: version for name, version in named.items() if version} | manifest.get(MADE_OF, {})

    # ----------------------------------------------------------------------------------------------------- event log

    def _busy(self) -> list[tuple[dg.AssetKey, Container[str] | None]]:
        """What unfinished runs are to make: an asset, and which of its partitions, None for all."""
        busy = []
        for run in self._instance.get_run_records(dg.RunsFilter(statuses=UNFINISHED)):
            run_id = run.dagster_run.run_id
            last = self._instance.get_records_for_run(run_id, limit=1, ascending=False).records
            if last and time.time() - last[0].timestamp > SILENT_SECONDS:
                continue
            for record in self._instance.get_records_for_run(run_id, of_type=_PLANNED).records:
                planned = record.event_log_entry.dagster_event.asset_materialization_planned_data
                partitions = [planned.partition] if planned.partition else planned.partitions_subset
                busy.append((planned.asset_key, partitions))
        return busy

    def _latest_ids(self) -> dict[dg.AssetKey, dict[str, int]]:
        """The storage id of the latest materialization, by asset and partition; '' is that of an asset without."""
        single = [key for key, asset in self._assets.items() if asset.experiments is None]
        ids: dict[dg.AssetKey, dict[str, int]] = {key: {} for key in single}
        for record in self._instance.get_asset_records(single):
            if (last := record.asset_entry.last_materialization_record) is not None:
                ids[record.asset_entry.asset_key] = {"": last.storage_id}
        for key in self._assets.keys() - ids.keys():
            ids[key] = dict(self._instance.get_latest_storage_id_by_partition(key, _MATERIALIZATION))
        return ids

    def _read(self, key: dg.AssetKey, ids: Mapping[str, int]) -> dict[Partition, Event]:
        """Those events, by partition."""
        if not ids:
            return {}
        wanted = dg.AssetRecordsFilter(asset_key=key, storage_ids=list(ids.values()))
        records = self._instance.fetch_materializations(wanted, limit=len(ids)).records
        return {record.partition_key: _event(record) for record in records}

    def _before(self, key: dg.AssetKey, partition: Partition, before: int | None = None) -> Any:
        """The record of the latest materialization, of those before a storage id, or None."""
        wanted = dg.AssetRecordsFilter(
            asset_key=key, asset_partitions=[partition] if partition else None, before_storage_id=before
        )
        return next(iter(self._instance.fetch_materializations(wanted, limit=1).records), None)

    def _version_at(self, key: dg.AssetKey, partition: Partition, storage_id: int) -> str | None:
        record = self._before(key, partition, storage_id + 1)
        return None if record is None else _event(record).version

    # ---------------------------------------------------------------------------------------------------- comparison

    def _compare(
        self, place: Place, manifest: Manifest, busy: Sequence[tuple[dg.AssetKey, Container[str] | None]]
    ) -> None:
        inputs = [self._input(place, key, manifest) for key in place.asset.inputs]
        event = self._events[place.asset.key].get(place.partition)
        made_by = MADE_BY
        if event is not None and event.version == manifest["data_version"]:
            if not made_of_others(event, inputs, self._version_at):
                return
            made_by = MADE_AGAIN
        in_a_run = any(
            key == place.asset.key and (partitions is None or place.partition is None or place.partition in partitions)
            for key, partitions in busy
        )
        after_others = any(at in self._waiting for given in inputs for at in self._parts(place, given.key))
        if in_a_run or after_others or time.monotonic() > self._until:
            self._wait(place)
            return
        tags = tags_of(manifest["data_version"], place.asset.code_version, inputs)
        self._report(place, manifest, tags, made_by)

    def _parts(self, place: Place, key: dg.AssetKey) -> list[tuple[dg.AssetKey, Partition]]:
        """The parts of an input that a place is made of: of its experiment, or of all where it has none."""
        given = self._assets[key]
        partitions = (place.partition,) if place.partition and given.experiments else given.partitions
        return [(key, partition) for partition in partitions]

    def _input(self, place: Place, key: dg.AssetKey, manifest: Manifest) -> Input:
        parts = [partition for _, partition in self._parts(place, key)]
        events = self._events[key]
        recorded = self._made_of(manifest).get(key.path[-1])
        if isinstance(recorded, str):
            recorded = dict.fromkeys(parts, recorded)
        return Input(
            key=key,
            partitioned=self._assets[key].experiments is not None,
            latest={p: events[p] for p in parts if p in events},
            recorded=recorded,
            on_disk=frozenset(self._on_disk[key]),
        )

    def _report(self, place: Place, manifest: Manifest, tags: Mapping[str, str], made_by: str) -> None:
        folder, asset = self._folder(place), place.asset
        metadata = {
            "made_by": made_by,
            "on_disk_since": dg.MetadataValue.timestamp((folder / MANIFEST).stat().st_mtime),
            **shown.metadata(asset.asset, folder, manifest),
        }
        checks = self._checks(place, manifest)
        if not _settled(folder):  # looked at last: what was read above is then of one writing
            self._wait(place)
            return
        self._instance.report_runless_asset_event(
            dg.AssetMaterialization(asset.key, partition=place.partition, metadata=metadata, tags=tags)
        )
        self._said["reported"].append(str(place))
        record = self._before(*place.at)
        self._events[asset.key][place.partition] = _event(record)
        for check in checks:
            try:
                self._instance.report_runless_asset_event(_evaluation(check, place, record))
            except IntegrityError:
                # Dagster's tables hold one result without a run for each check and partition. The first one stays, and
                # is shown as that of the materialization that it was told of.
                self._log.warning(f"{place}: {check.check_name} is not told anew; the next run here that makes it does")

    def _checks(self, place: Place, manifest: Manifest) -> list[dg.AssetCheckResult]:
        try:
            targets = self._targets[place.asset.dataset]
            return shown.quick_checks(place.asset.asset, self._folder(place), manifest, targets)
        except Exception as e:  # a report on other targets than the dataset has now, say
            self._log.warning(f"{place} is shown without its checks: {_told(e)}")
            return []

    def _wait(self, place: Place) -> None:
        self._waiting.add(place.at)
        self._said["waiting"].append(str(place))

    def _not_shown(self, place: Place, error: Exception) -> None:
        self._said["not shown"].append(str(place))
        self._log.warning(f"{place} is not shown: {_told(error)}")


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"


def _event(record: Any) -> Event:
    return Event(record.storage_id, record.event_log_entry.tags or {})


def _evaluation(check: dg.AssetCheckResult, place: Place, record: Any) -> dg.AssetCheckEvaluation:
    """A check's result as an event, of the materialization that a record is of."""
    of = AssetCheckEvaluationTargetMaterializationData(
        storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
    )
    return dg.AssetCheckEvaluation(
        asset_key=place.asset.key,
        check_name=check.check_name,
        passed=check.passed,
        metadata=check.metadata,
        target_materialization_data=of,
        severity=check.severity,
        description=check.description,
        blocking=check.severity == dg.AssetCheckSeverity.ERROR,
        partition=place.partition,
    )


def _settled(folder: Path) -> bool:
    """Whether nothing in a folder has changed of late. A copy may keep the times of its source, but not this one."""
    try:
        changed = max(path.stat().st_ctime for path in (folder, *folder.rglob("*")))
    except OSError:  # it is replaced at this moment
        return False
    return not 0 <= time.time() - changed < SETTLED_SECONDS
