"""Errors that a user can act on.

Every message names the file, line or field, the rule, the value got, and the way out. The CLI prints them
without a traceback and exits with status 1; Dagster shows them as the step's failure.
"""


class T2SError(Exception):
    """Base of every error that the platform raises on purpose."""


class ConfigError(T2SError):
    """A dataset or experiment file breaks a rule. Carries all problems found, not only the first."""


class DataError(T2SError):
    """Source data is missing, unreadable or breaks the format."""


class ModelError(T2SError):
    """Base weights, tokenizer or adapter cannot be used."""


class PromptError(T2SError):
    """A question or schema cannot be turned into a prompt."""


class ExecutionError(T2SError):
    """The execution module itself (not the query it runs) cannot do its work."""


class StorageError(T2SError):
    """Files cannot be written: the disk is full, or the folder is not ours to write to."""
