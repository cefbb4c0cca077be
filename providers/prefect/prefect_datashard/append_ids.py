"""The append id of a call within a Prefect run: the same when a task or flow is run again.

``prefect:[deployment:]flow-run:<id>:<path>:<digest>:<ordinal>``

- *flow run*: its id. Retries of a flow keep it, whereas they make new task runs.
- *path*: names of the functions of the tasks (and subflows) between the flow and the call; ``-`` in a
  flow's own body. Prefect's task key would add a hash of the code: left out, so that a flow that is
  mended and retried finds what it appended before.
- *digest* of the rows: appends of other rows never share an id, in whatever order they come.
- *ordinal*: the how-manieth append of these rows to this table by this path. A retried task draws the
  numbers of its first try again, a retried flow counts from 0 again, and a call that raised gives its
  number back to the next (:func:`prefect_datashard.runs.draw`). Appends of equal rows are the same to the
  table, so it does not matter which of them drew which number; only how many there are.

Outside any run there is no id here, and the library makes one for every call.

**When could two appends share an id, so that rows are lost?** Within an attempt of a flow, never: the
numbers are drawn from one counter in the process of the flow. Over attempts, only if the second attempt
makes fewer appends of equal rows by the same path than the first, and among them one that the first did
not make:

- *Prefect skips a task whose result was kept* (``persist_result``, a cache policy, a transaction with a
  key, a complete subflow): its number would go to a sibling that failed before. Hence the keys by which
  Prefect skips are part of the path; what they tell apart is counted apart.
- *The code skips by itself* what an earlier attempt did, and the rest has equal rows: not to be seen from
  here. Pass ``append_id=`` there.
- *Counters that know nothing of each other*: in workers of a process pool or of Dask, in task workers, in
  forked children. There no number is drawn for the flow: the id is that of the task run,
  ``prefect:[deployment:]task-run:<id>:<path>:<digest>:<ordinal>``, which no other task run shares, with
  numbers of this try alone. Where several processes have one task run (a forked child, a context handed
  to ``multiprocessing``), the library makes an id for every call.

**When could one append get two ids, so that a retry doubles it?** Each with a warning in the run's log:

- The id of a task run (above): a retried flow makes a new one. Retries of the task itself are safe.
- An id that the library makes (above): any retry.
- A retried flow meets a task whose results are kept, and whose cache key is not what it was.

And without one, because the rows are not the same or the call says nothing of its run:

- Rows that are made anew in each try (time stamps, random numbers): they are other rows. Pass an
  ``append_id=`` made of what stays the same.
- ``datashard_core`` used directly (``block.load_table(...).append(...)``), or a thread that user code
  starts without the run's context (``contextvars.copy_context``; ``asyncio.to_thread`` takes it along).
- A call that was cancelled and is made again in the same try: it is one more append.

A subflow counts within its parent flow's run, as that starts another subflow run when it is retried. A
flow that a deployment runs has a run of its own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefect_datashard.runs import Draw, Place, UnknownPlace, current_place, draw

if TYPE_CHECKING:
    from prefect_datashard.blocks import Logger

MAX_PATH_CHARACTERS = 300
MAX_REMEMBERED = 10_000

_warned: set[tuple[str, ...]] = set()


@dataclass
class AppendIdMaker:
    """Makes the id of one append, once its rows are digested; see the module.

    Attributes:
        place: where in the run the append is called.
        table_uri: URI of the table: appends to different tables are counted apart.
        deployment: name of the Prefect installation, or None.
    """

    place: Place
    table_uri: str
    deployment: str | None
    _draw: Draw | None = None

    def __call__(self, digest: str) -> str:
        """The id of an append of rows with this digest."""
        path = _path(self.place)
        self._draw = draw(self.place, (self.table_uri, path, digest))
        prefix = ["prefect", self.deployment] if self.deployment else ["prefect"]
        return ":".join([*prefix, self.place.kind, self.place.run_id, path, digest, str(self._draw.ordinal)])

    def failed(self) -> None:
        """The append raised: if the try calls it again, it is the same append, with the same id."""
        if self._draw is not None:
            self._draw.give_back()
            self._draw = None


def append_id_maker(table_uri: str, deployment: str | None, logger: Logger) -> AppendIdMaker | None:
    """What makes the id of an append that is called here; None where the library is to make one.

    Args:
        table_uri: URI of the table.
        deployment: name of the Prefect installation, if several append to the table.
        logger: where warnings go.

    Example:
        >>> append_id_maker("s3://bucket/events", None, logger)("0f" * 16)
        'prefect:flow-run:1c0b...:load_month:0f0f...:0'
    """
    try:
        place = current_place()
    except UnknownPlace as unknown:
        _warn_once(
            logger,
            ("unknown", str(unknown)),
            f"appends to {table_uri} cannot be told apart here ({unknown}), so each gets an id of its own: a retry "
            "appends the rows again. Pass append_id=, something that stays the same when the work is tried again.",
        )
        return None
    if place is None:
        return None
    _warn_of_doubts(place, table_uri, logger)
    return AppendIdMaker(place, table_uri, deployment)


def _path(place: Place) -> str:
    path = "/".join(place.path) or "-"
    if len(path) > MAX_PATH_CHARACTERS:
        path = _short("", path)
    return f"{path}@{_short(*place.skips)}" if place.skips else path


def _short(*texts: str) -> str:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=8).hexdigest()


def _warn_of_doubts(place: Place, table_uri: str, logger: Logger) -> None:
    name = "/".join(place.path) or "the flow"
    if place.doubt:
        # Of the task, not of the run: its sibling runs in this process have the same to say.
        flow_run = getattr(getattr(place.frames[0].context, "task_run", None), "flow_run_id", place.run_id)
        _warn_once(
            logger,
            ("doubt", str(flow_run), name),
            f"{name} appends to {table_uri} and {place.doubt}: a retry of the flow may append its rows twice. Pass "
            "append_id=, something that stays the same when the flow is tried again.",
        )
    elif place.skips and place.attempt > 1:
        _warn_once(
            logger,
            ("skips", place.run_id, name),
            f"{name} appends to {table_uri} and keeps its results: if its cache key is another than in attempt "
            f"{place.attempt - 1} of the flow, and its rows were appended then, they are appended again. Pass "
            "append_id= if the key may change.",
        )


def _warn_once(logger: Logger, key: tuple[str, ...], message: str) -> None:
    if key in _warned:
        return
    if len(_warned) >= MAX_REMEMBERED:
        _warned.clear()
    _warned.add(key)
    logger.warning(message)
