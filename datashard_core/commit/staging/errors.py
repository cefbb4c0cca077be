"""Why a staged body cannot be committed: never by any release, or not by this one."""

from __future__ import annotations

from datashard_core.errors import DataShardError


class UnreadableBodyError(DataShardError):
    """No release can commit the staged body to this table: the reason becomes a committed refusal."""


class NewerBodyError(DataShardError):
    """A newer release wrote the staged body: it is set aside, because that release may be able to commit it."""


def not_decoded(error: Exception) -> UnreadableBodyError:
    """The error for bytes that are no staged body."""
    return UnreadableBodyError(f"the staged body cannot be decoded ({type(error).__name__}: {str(error)[:120]})")
