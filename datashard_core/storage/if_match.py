"""Whether a store keeps If-Match, and in which form it takes an ETag: learned once in a process.

Most stores refuse a PUT whose If-Match names an older ETag, and take one that names the current one
as they sent it. Ceph RGW 16.2 compares without quotes, gateways send weak ETags that never match,
others answer an error or ignore the header. No commit depends on it; tombstones and the forgetting
of append ids do, so they are left out where it cannot be relied on.
"""

from __future__ import annotations

from typing import Any

from datashard_core.clock import SYSTEM_CLOCK
from datashard_core.errors import StorageError
from datashard_core.storage.base import OutcomeUnknownError, PreconditionFailedError, Storage, Version

SCRATCH = "_datashard/probe-"
"""Objects by which a store is tried out begin with it."""
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


def unusable(root: str, key: str, why: str) -> StorageError:
    """The refusal to replace an object in a store without If-Match."""
    return StorageError(
        f"{root}/{key} cannot be replaced on condition: {why}. Nothing was written.", reason="unsupported", key=key
    )


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
