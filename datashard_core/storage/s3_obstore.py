"""The cheap transport: obstore, the Rust crate object_store with a thin Python face.

A request and the start of a fresh process cost a fraction of boto3's CPU, and the
GIL is free while it is under way. Three things want care:

* its errors are few: 409 and 412 on a create are one class, and all else is "generic". The status
  and the body stand in the text, so they are read from there; a text that says neither counts as
  "sent, and not answered", which is always safe;
* credentials are fixed for a store, so it is made anew when ours have changed;
* its threads do not survive a fork (a child would wait for ever), so a forked child uses boto3.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from datashard_core.config import Credentials, S3Config
from datashard_core.errors import ConfigurationError
from datashard_core.storage.base import ObjectInfo, StoredObject, Version
from datashard_core.storage.choice import note_use_of_obstore
from datashard_core.storage.environment import without_aws_variables
from datashard_core.storage.s3_errors import Answer, read_answer
from datashard_core.storage.transport import (
    PAGE,
    UNKNOWN_TIME,
    BrokenError,
    CannotError,
    Condition,
    NotSentError,
    Page,
    RefusedError,
    TransportError,
    UnfitError,
    Written,
)

if TYPE_CHECKING:
    from datashard_core.storage.s3_client import S3Clients

WHOLE_REQUEST = "3600s"  # what limits a request is that the peer falls silent (read_timeout)
IDLE = "15s"  # AWS closes idle connections after some 20 s; one that is closed under a request breaks it

_STATUS = r"(?s)Server returned non-2xx status code: (\d{3})[^:]*: ?(.*)"
_ERROR_BODY = r"(?s)Server returned error response: (.*)"
_NO_ETAG = "ETag Header missing from response"
_CANNOT = ("Content-Length Header missing from response", "Received non-partial response when range requested")
_UNFIT = r"Got invalid list response: (.*)|(Invalid last modified .*)"
_CODE = r"<Code>([^<]*)</Code>"
_MESSAGE = r"<Message>([^<]*)</Message>"
_KEY_REFUSED = r"(?s)DeleteObjects request failed for key (.*): (.*) \(code: ([^()]*)\)"
_KEY = r"<Key>([^<]*)</Key>"
_ROOT_CAUSE = r'message: "([^"]+)"|(InvalidCertificate\(\s*\w+)|kind: (\w+)|(TimedOut)'


class WrittenError(TransportError):
    """obstore misses the ETag in the answer to a PUT: the store took the object."""


class ObstoreTransport:
    """obstore's S3 store.

    Args:
        clients: whose credentials and region it uses.
    """

    name = "obstore"

    def __init__(self, clients: S3Clients) -> None:
        self._clients = clients
        self._config = clients.config
        self._lock = threading.Lock()
        self._made: tuple[Credentials, str, Any] | None = None

    def get(self, key: str, byte_range: tuple[int, int] | None) -> StoredObject:
        options: Any = None if byte_range is None else {"range": byte_range}
        store = self._store()
        with _told():
            answer = obstore.get(store, key, options=options)
            body = bytes(answer.bytes())
        found = answer.meta
        return StoredObject(body, Version(found["e_tag"] or ""), _seconds(found))

    def get_data(self, key: str) -> memoryview:
        store = self._store()
        with _told():
            return memoryview(obstore.get(store, key).bytes())  # what Rust has: a copy of large files takes long

    def head(self, key: str) -> ObjectInfo:
        store = self._store()
        with _told():
            return _info(obstore.head(store, key))

    def page(self, prefix: str, after: str | None) -> Page:
        # It lists whole folders, so a prefix that ends within a name is a start and an end in one.
        folder, _, part = prefix.rpartition("/")
        start = max(after or "", _just_before(prefix)) if part else after
        store = self._store()
        with _told():
            stream = obstore.list(store, folder or None, offset=start or None, chunk_size=PAGE)
            # One chunk is one request; the rest of the stream is never asked for.
            listed = next(iter(stream), [])
        objects = [_info(found) for found in listed]
        wanted = [one for one in objects if one.key.startswith(prefix) and (after is None or one.key > after)]
        ended = len(objects) < PAGE or (objects[-1].key > prefix and not objects[-1].key.startswith(prefix))
        return Page(wanted, None if ended else objects[-1].key)

    def folders(self, prefix: str) -> list[str]:
        store = self._store()
        with _told():
            answer = obstore.list_with_delimiter(store, prefix.rstrip("/") or None)
        return [f"{one.rstrip('/')}/" for one in answer["common_prefixes"] if one]

    def put(self, key: str, data: Any, condition: Condition | None) -> Written:
        mode: Any = "overwrite"
        if condition is not None:
            mode = "create" if condition.version is None else {"e_tag": condition.version}
        body = data if isinstance(data, bytes) else memoryview(data).cast("B")
        store = self._store()
        try:
            with _told():
                answer = obstore.put(store, key, body, mode=mode, use_multipart=False)
        except WrittenError:
            return Written(Version(""))
        return Written(Version(answer["e_tag"] or ""))

    def delete(self, keys: Sequence[str]) -> Sequence[tuple[str, Answer]]:
        store = self._store()
        try:
            with _told():
                obstore.delete(store, list(keys))
        except RefusedError as error:
            if error.answer.status != 200:
                raise
            return refused_in(error.answer.message)
        return ()

    def delete_one(self, key: str) -> None:
        self._clients.boto3.delete_one(key)  # obstore knows bulk deletes alone

    # -----------------------------------------------------------------------------------------

    def _store(self) -> Any:
        """The store for the credentials that are valid now."""
        credentials, region = self._clients.credentials(), self._clients.region
        made = self._made
        if made is None or made[0] != credentials or made[1] != region:
            with self._lock:
                made = self._made
                if made is None or made[0] != credentials or made[1] != region:
                    made = self._made = (credentials, region, make_store(self._config, credentials, region))
        return made[2]


@contextmanager
def _told() -> Iterator[None]:
    """Turn what obstore raises into how it failed."""
    try:
        yield
    except ValueError as error:
        raise RefusedError(Answer("InvalidPath", 400, f"{error}; transport='boto3' takes such keys")) from error
    except (BaseError, OSError) as error:
        raise failure_of(str(error)) from error


def make_store(config: S3Config, credentials: Credentials, region: str) -> Any:
    """An obstore store that looks nothing up and repeats nothing."""
    endpoint, virtual = address(config)
    settings: dict[str, Any] = {
        "access_key_id": credentials.access_key,
        "secret_access_key": credentials.secret_key,
        "region": region,
        "virtual_hosted_style_request": virtual,
    }
    if credentials.session_token:
        settings["session_token"] = credentials.session_token
    if endpoint is not None:
        settings["endpoint"] = endpoint
    options: Any = {
        "allow_http": endpoint is not None and endpoint.startswith("http://"),
        "connect_timeout": f"{config.connect_timeout * 1000:.0f}ms",
        "read_timeout": f"{config.read_timeout * 1000:.0f}ms",
        "timeout": WHOLE_REQUEST,
        "pool_idle_timeout": IDLE,
        "user_agent": "datashard",
    }
    if isinstance(config.verify_tls, str):
        options["root_certificate"] = _certificates(config.verify_tls)
    elif config.verify_tls is False or options["allow_http"]:
        # Where no certificate is looked at, the machine's own are not read either, which takes some milliseconds.
        options["allow_invalid_certificates"] = True
    note_use_of_obstore()
    with without_aws_variables():
        return S3Store(config.bucket, client_options=options, retry_config={"max_retries": 0}, **settings)


def address(config: S3Config) -> tuple[str | None, bool]:
    """The endpoint as obstore wants it, and whether the bucket is in its host name. Pure."""
    # A dot in the name would be one label too many for the certificate of the store.
    secure = config.endpoint is None or config.endpoint.startswith("https://")
    virtual = not config.uses_path_style and not (secure and "." in config.bucket)
    if config.endpoint is None or not virtual:
        return config.endpoint, virtual
    scheme, _, host = config.endpoint.partition("://")
    return f"{scheme}://{config.bucket}.{host}", True


def _certificates(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="ignore")
    except OSError as error:
        raise ConfigurationError(f"verify_tls={path!r} is no file of certificates that can be read: {error}") from error


def failure_of(text: str) -> TransportError:
    """How a request failed, by the text of obstore's error. Pure."""
    told, _, debug = text.partition("\n\nDebug source:")
    if (found := re.search(_STATUS, told)) is not None:
        return RefusedError(read_answer(int(found[1]), found[2]))
    if (errors := re.search(_ERROR_BODY, told)) is not None:
        return RefusedError(Answer("", 200, errors[1]))
    if re.search(_KEY_REFUSED, told) is not None:
        return RefusedError(Answer("", 200, told))
    if "redirect without LOCATION" in told:
        return RefusedError(Answer("PermanentRedirect", 301))
    if _NO_ETAG in told:
        return WrittenError(told)
    if any(one in told for one in _CANNOT):
        return CannotError(told)
    if (unfit := re.search(_UNFIT, told)) is not None:
        return UnfitError(f"a value in the answer is missing or cannot be read: {unfit[1] or unfit[2]}")
    if "kind: Redirect" in debug or "TooManyRedirects" in debug:
        return RefusedError(Answer("TemporaryRedirect", 307, "it redirects to itself, or in a circle"))
    causes = [part for parts in re.findall(_ROOT_CAUSE, debug) for part in parts if part]
    message = f"{told.removeprefix('Generic S3 error: ')} ({', '.join(dict.fromkeys(causes))})" if causes else told
    return NotSentError(message) if "kind: Connect," in debug else BrokenError(message)


def refused_in(body: str) -> list[tuple[str, Answer]]:
    """What the answer to a bulk delete refuses, by key: the first of them as obstore tells it, or all. Pure."""
    if (first := re.search(_KEY_REFUSED, body)) is not None:
        return [(first[1], Answer(first[3], 200, first[2]))]
    refused = []
    for part in body.split("<Error>")[1:]:
        key, code, message = re.search(_KEY, part), re.search(_CODE, part), re.search(_MESSAGE, part)
        refused.append((key[1] if key else "", Answer(code[1] if code else "", 200, message[1] if message else "")))
    return refused


def _info(found: Any) -> ObjectInfo:
    return ObjectInfo(found["path"], found["size"], Version(found["e_tag"] or ""), _seconds(found))


def _seconds(found: Any) -> float:
    """The time of an object; obstore says 1970 where the answer does not tell it."""
    return float(found["last_modified"].timestamp()) or UNKNOWN_TIME


def _just_before(prefix: str) -> str:
    """A key that sorts before all that begin with ``prefix``, and not far before."""
    return prefix[:-1] + chr(ord(prefix[-1]) - 1)
