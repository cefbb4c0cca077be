"""The results of appends, and their errors."""

from __future__ import annotations

from datashard_core.commit.append_ids.lookback import ForgottenError, RecordedOutcome
from datashard_core.commit.core.recorded_ids import Refusal
from datashard_core.commit.core.state import Append, Committed, Target
from datashard_core.commit.core.vanished import VanishedTableError
from datashard_core.errors import AppendIdConflictError, AppendRefusedError, CommitStateUnknownError, DataShardError

Result = Committed | DataShardError


def refusal_of(target: Target, item: Append, recorded: RecordedOutcome) -> AppendRefusedError:
    """The error for an append that a version refuses."""
    assert isinstance(recorded.record, Refusal)
    return AppendRefusedError(
        f"table {target.name}: version {recorded.version} refuses append {item.append_id!r}: {recorded.record.reason}. "
        "No row of it is in the table. Fix the rows and append again."
    )


def conflict(target: Target, item: Append, recorded: RecordedOutcome) -> AppendIdConflictError:
    """The error for an id that was committed with other rows; it shows both digests."""
    return AppendIdConflictError(
        f"table {target.name}: append id {item.append_id!r} was committed in version {recorded.version} with other "
        f"rows (digest {recorded.record} there, {item.digest} now). Nothing was appended. To append these rows as "
        "well, give them another append_id; if the first rows were wrong, delete them and append under a new id.",
        append_id=item.append_id,
        version=recorded.version,
        committed_digest=str(recorded.record),
        given_digest=item.digest,
    )


def unknown(target: Target, item: Append, base: int, cause: DataShardError | None) -> CommitStateUnknownError:
    """The error for an append that was sent, and whose outcome no version shows."""
    if isinstance(cause, ForgottenError):
        return CommitStateUnknownError(
            f"table {target.name}: it is not known whether append {item.append_id!r}, begun at version {base}, is in "
            f"the table. {cause}",
            append_id=item.append_id,
            base=base,
            table=target.root,
        )
    if isinstance(cause, VanishedTableError):
        return CommitStateUnknownError(
            f"table {target.name}: append {item.append_id!r} is in no table that can be read. {cause}, and append the "
            f"rows there. After a restore call append again with the same rows, append_id={item.append_id!r} and "
            f"base={base}: they end up in the table exactly once.",
            append_id=item.append_id,
            base=base,
            table=target.root,
        )
    return CommitStateUnknownError(
        f"table {target.name} at {target.root}: it is not known whether append {item.append_id!r} is, or "
        f"will be, in the table ({cause or 'no answer in time'}). Nothing was cleaned up. Call append again with the "
        f"same rows, append_id={item.append_id!r} and base={base}: they end up in the table exactly once.",
        append_id=item.append_id,
        base=base,
        table=target.root,
    )
