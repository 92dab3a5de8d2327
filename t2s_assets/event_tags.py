"""The tags by which Dagster tells what is fresh, for materializations that none of its runs made.

A materialization holds its data version and, of each input, what it was made of. Dagster compares an input without
partitions by data version. Of one with partitions it keeps a place in the event log: the input has changed when a later
event has another version (`CachingStaleStatusResolver` in dagster/_core/definitions/data_version.py). Without such tags
Dagster would compare times, and call changed what was only made once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256

import dagster as dg
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    DEFAULT_DATA_VERSION,
    NULL_EVENT_POINTER,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)

# Points before every event: whatever the log has of the input is another version than what was used. Dagster takes 0,
# and what comes before it by one, for no pointer.
_BEFORE_ALL = -2

Partition = str | None

VersionAt = Callable[[dg.AssetKey, Partition, int], str | None]
"""The data version of a partition as an event of the log, or the last one before it, has it."""


@dataclass(frozen=True)
class Event:
    """A materialization in the event log: its storage id and its tags."""

    id: int
    tags: Mapping[str, str]

    @property
    def version(self) -> str | None:
        """The data version."""
        return self.tags.get(DATA_VERSION_TAG)


@dataclass(frozen=True)
class Input:
    """An asset that another is made of: `latest` are the events of those of its partitions that count for the other,
    None is the partition of an asset without.

    `recorded` are the versions that the other's manifest tells, None where it does not. `on_disk` are the partitions
    that storage holds: a partition of `latest` that is neither there nor recorded does not matter.
    """

    key: dg.AssetKey
    partitioned: bool
    latest: Mapping[Partition, Event]
    recorded: Mapping[Partition, str] | None
    on_disk: frozenset[Partition]

    @property
    def is_as_used(self) -> bool:
        """Whether the log has these versions of it, as far as is known."""
        if self.recorded is None or not self.latest:
            return bool(self.latest)
        return all(
            self.recorded.get(p) == event.version
            for p, event in self.latest.items()
            if p in self.recorded or p in self.on_disk
        )

    @property
    def tags(self) -> dict[str, str]:
        """What a materialization tells of it; of several partitions the version is a hash, as Dagster's is."""
        versions = self.recorded or {p: event.version or "" for p, event in self.latest.items()}
        pointer: str | int = max((event.id for event in self.latest.values()), default=NULL_EVENT_POINTER)
        if self.partitioned:
            joined = "".join(version for _, version in sorted(versions.items(), key=lambda item: item[0] or ""))
            version = sha256(joined.encode()).hexdigest()
            pointer = pointer if self.is_as_used else _BEFORE_ALL
        else:
            version = versions.get(None, DEFAULT_DATA_VERSION.value)
        return {get_input_data_version_tag(self.key): version, get_input_event_pointer_tag(self.key): str(pointer)}

    def seems_changed(self, event: Event, version_at: VersionAt) -> bool:
        """Whether Dagster calls it changed since an event of the asset that is made of it."""
        version = event.tags.get(get_input_data_version_tag(self.key))
        pointer = event.tags.get(get_input_event_pointer_tag(self.key))
        if version is None or pointer is None:
            return False
        if not self.partitioned:
            return any(now.version != version for now in self.latest.values())
        if pointer == NULL_EVENT_POINTER:
            return False
        return any(
            now.id > int(pointer) and version_at(self.key, p, int(pointer)) != now.version
            for p, now in self.latest.items()
        )

    def was_unknown(self, event: Event) -> bool:
        """Whether an event was told before there was any of it in the log."""
        if self.partitioned:
            return event.tags.get(get_input_event_pointer_tag(self.key)) == str(_BEFORE_ALL)
        return event.tags.get(get_input_data_version_tag(self.key)) == DEFAULT_DATA_VERSION.value


def tags_of(version: str, code_version: str | None, inputs: Iterable[Input]) -> dict[str, str]:
    """All tags of a materialization with a data version, by code of a version, of these inputs."""
    tags = {DATA_VERSION_TAG: version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}
    if code_version is not None:
        tags[CODE_VERSION_TAG] = code_version
    for given in inputs:
        tags |= given.tags
    return tags


def made_of_others(event: Event, inputs: Iterable[Input], version_at: VersionAt) -> bool:
    """Whether an event says of an asset that its inputs have changed since, where its manifest says that it is made of
    them as they are: it was made again elsewhere, with the same content."""
    return any(
        given.is_as_used
        and given.seems_changed(event, version_at)
        and (given.recorded is not None or given.was_unknown(event))
        for given in inputs
    )
