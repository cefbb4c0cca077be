"""Whether a store keeps If-Match, and in which form it takes an ETag: learned once in a process.

Most stores refuse a PUT whose If-Match names an older ETag, and take one that names the current one
as they sent it. Ceph RGW 16.2 compares without quotes, gateways send weak ETags that never match,
others answer an error or ignore the header. No commit depends on it; tombstones and the forgetting
of append ids do, so they are left out where it cannot be relied on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datashard_core.clock import SYSTEM_CLOCK
from datashard_core.errors import StorageError
from datashard_core.storage.base import (
    ObjectNotFoundError,
    OutcomeUnknownError,
    PreconditionFailedError,
    Storage,
    Version,
)

SCRATCH = "_datashard/probe-"
"""Objects by which a store is tried out begin with it."""
_OF_ETAGS = frozenset({"precondition-failed", "other"})
"""Answers to a right ETag that may be due to the form in which it is sent."""
_OF_IF_MATCH = _OF_ETAGS | {"unsupported", "access-denied"}
"""Answers to a PUT with If-Match that may be due to that header."""
_NEVER = Version('"00000000000000000000000000000000"')


class IfMatch:
    """What this process knows of If-Match in one bucket.

    Attributes:
        form: how the ETag of the last replacement was sent: "given" as the store sent it, "strong" without
            ``W/``, "bare" without quotes; empty while none has held.
        refuses: a stale ETag was refused.
        why: why it cannot be used; empty while it can, as far as is known.
    """

    def __init__(self) -> None:
        self.form = ""
        self.refuses = False
        self.why = ""

    @property
    def kept(self) -> bool:
        """Whether a replacement is made only if the object is unchanged, as far as is known."""
        return self.refuses and not self.why


def forms_of(version: Version, known: str) -> list[tuple[str, Version]]:
    """The forms in which an ETag can be sent, the likeliest first; only the known one, if it is. Pure."""
    strong = version.removeprefix("W/")
    forms = {"given": version, "strong": strong, "bare": Version(strong.strip('"'))}
    if known:
        return [(known, Version(forms[known]))]
    second = "strong" if strong != version else "bare"
    return [(name, Version(forms[name])) for name in ("given", second) if name == "given" or forms[name] != version]


def same(one: Version, other: Version) -> bool:
    """Whether two ETags name the same body, however they are written. Pure."""
    return bool(one) and _bare(one) == _bare(other)


def _bare(version: Version) -> str:
    return version.removeprefix("W/").strip('"')


def replace_by(
    known: IfMatch,
    version: Version,
    write: Callable[[Version], Version],
    look: Callable[[], Version],
    root: str,
    key: str,
    told_apart: bool = True,
) -> Version:
    """Replace an object that has a version, in the form of its ETag that the store takes.

    While no ETag has held in this process, a refusal may be due to the store: it counts if the object
    still has the version. That costs a request or two, once.

    Args:
        known: what is known of the store; what is learned is noted there.
        version: the ETag that the object has to have.
        write: sends the PUT with an ETag.
        look: the object's ETag now.
        root: URI of the storage, for messages.
        key: the object.
        told_apart: an "unsupported" error can only mean the condition.

    Raises:
        PreconditionFailedError: the object has another version by now, or is gone; or a refusal that cannot be checked.
        StorageError: If-Match cannot be used here (reason "unsupported"), or the store failed.
    """
    refusal: StorageError | None = None
    for form, sent in forms_of(version, known.form):
        if known.why or not sent:
            break
        try:
            written = write(sent)
        except StorageError as error:
            if known.form or error.reason not in _OF_IF_MATCH or (error.reason == "unsupported" and not told_apart):
                known.refuses |= isinstance(error, PreconditionFailedError)
                raise
            refusal = error
            _check_unchanged(known, version, refusal, look, f"{root}/{key}", key)
            if error.reason not in _OF_ETAGS:
                break
        else:
            known.form = form
            return written
    if not known.why:
        if not version:
            _check_unchanged(known, version, None, look, f"{root}/{key}", key)
        known.why = _why(refusal)
    raise StorageError(
        f"{root}/{key} cannot be replaced on condition: {known.why}. Nothing was written.",
        reason="unsupported",
        key=key,
    )


def _check_unchanged(
    known: IfMatch, version: Version, refusal: StorageError | None, look: Callable[[], Version], where: str, key: str
) -> None:
    """Raise that the condition does not hold, if the object has another version by now or is gone."""
    try:
        current = look()
    except ObjectNotFoundError as error:
        known.refuses |= isinstance(refusal, PreconditionFailedError)
        raise PreconditionFailedError(f"{where} is gone", key=key) from error
    except StorageError as error:
        if refusal is None:
            raise
        raise refusal from error  # what the store answered to the PUT says more than that it cannot be checked
    if current and not same(current, version):
        known.refuses |= isinstance(refusal, PreconditionFailedError)
        raise PreconditionFailedError(f"{where} is {current}, not {version!r} any more", key=key) from refusal


def _why(refusal: StorageError | None) -> str:
    """Why If-Match cannot be used, by how a PUT with a right ETag was refused; None: there is no ETag to name."""
    if refusal is None:
        return "the store sends no ETags, which If-Match could name"
    answers = {"precondition-failed": "412 Precondition Failed", "unsupported": "501 Not Implemented"}
    answer = answers.get(refusal.reason) or ("403" if refusal.reason == "access-denied" else str(refusal))
    return f"the store refuses a PUT whose If-Match names the current ETag: {answer}"


def if_match_of(storage: Storage) -> IfMatch | None:
    """What is known of a storage's If-Match; None for one that keeps conditions by itself."""
    known: Any = getattr(storage, "if_match", None)
    return known if isinstance(known, IfMatch) else None


def keeps_versions(storage: Storage) -> bool:
    """Whether ``replace`` can be relied on here; tried out by one request where the process does not know.

    An object that does not exist has no ETag, so a store that keeps If-Match refuses to replace it.
    """
    known = if_match_of(storage)
    if known is None:
        return True
    if known.why or known.refuses:
        return known.kept
    key = f"{SCRATCH}{SYSTEM_CLOCK.unique()}-c"
    try:
        storage.replace(key, b"", _NEVER)
    except PreconditionFailedError:
        return known.kept
    except OutcomeUnknownError:
        return False
    except StorageError as error:
        if error.reason == "unsupported":
            return False
        raise
    known.why = "the store writes although If-Match names an ETag of no object"
    storage.delete([key])
    return False
