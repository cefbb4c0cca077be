"""How an append ended, and the errors that say so."""

from __future__ import annotations

from datashard_core.commit.append_ids.lookback import ForgottenError, RecordedOutcome
from datashard_core.commit.core.recorded_ids import Refusal
from datashard_core.commit.core.state import Append, Committed, Target
from datashard_core.commit.core.vanished import VanishedTableError
from datashard_core.errors import AppendIdConflictError, AppendRefusedError, CommitStateUnknownError, DataShardError

Result = Committed | DataShardError


def refusal_of(target: Target, item: Append, word: RecordedOutcome) -> AppendRefusedError:
    """The failure that a committed version speaks of."""
    assert isinstance(word.record, Refusal)
    return AppendRefusedError(
        f"table {target.name}: version {word.version} refuses append {item.append_id!r}: {word.record.reason}. "
        "Nothing of it is in the table; mend it and append again."
    )


def conflict(target: Target, item: Append, word: RecordedOutcome) -> AppendIdConflictError:
    """The same id with other rows: an error that shows both, never a silent skip."""
    return AppendIdConflictError(
        f"table {target.name}: append id {item.append_id!r} was committed in version {word.version} with other rows "
        f"(digest {word.record} there, {item.digest} now). Nothing was appended. If these rows are meant to be "
        "appended as well, give them another append_id; if the first were wrong, delete them and append under a "
        "new id.",
        append_id=item.append_id,
        version=word.version,
        committed_digest=str(word.record),
        given_digest=item.digest,
    )


def unknown(target: Target, item: Append, base: int, cause: DataShardError | None) -> CommitStateUnknownError:
    """Something was sent, and no version tells what became of it."""
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
