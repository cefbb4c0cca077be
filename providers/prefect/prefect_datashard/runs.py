"""Where in a Prefect run a call stands: which flow run, through which tasks, in which of their tries.

A *frame* is one try of a run: Prefect makes a new ``FlowRunContext`` for each attempt of a flow and a
new ``TaskRunContext`` for each try of a task, so these objects tell the tries apart, even when a try
that timed out still goes on beside the next one. The frames of a call, innermost first, are its
*chain*: a task, the task that called it, the subflow that they belong to, up to the flow run.

Counters live in this process, by frame. So a chain is only followed where all of it runs in this
process; where a part runs elsewhere (process pools, Dask, task workers, forked children), counters
here would repeat the numbers given out there, and :func:`current_place` says so.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import weakref
from collections import Counter
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from prefect.context import FlowRunContext, TaskRunContext
from prefect.transactions import get_transaction

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator
    from uuid import UUID

RunContext = FlowRunContext | TaskRunContext


@dataclass(frozen=True, eq=False)
class Frame:
    """One try of one run.

    Attributes:
        context: Prefect's context of this try.
        run_id: id of the flow run or task run.
        name: name of the flow, or of the task's function.
    """

    context: RunContext
    run_id: str
    name: str

    @property
    def is_flow(self) -> bool:
        """Whether it is a flow run's."""
        return isinstance(self.context, FlowRunContext)


@dataclass(frozen=True)
class Place:
    """Where a call stands.

    Attributes:
        kind: "flow-run" if every try is known up to the flow run, else "task-run": the innermost task.
        run_id: id of that run.
        path: names of the frames below the run, outermost first.
        frames: the chain, innermost first; the last one belongs to ``run_id``.
        skips: keys by which Prefect itself may leave a part of the chain out when it is run again.
        attempt: 1 for the first attempt of the flow run, 0 where it is not known.
        doubt: why another attempt may not find this place again; "" if it will.
    """

    kind: Literal["flow-run", "task-run"]
    run_id: str
    path: tuple[str, ...]
    frames: tuple[Frame, ...]
    skips: tuple[str, ...] = ()
    attempt: int = 0
    doubt: str = ""


class UnknownPlace(Exception):
    """The call belongs to a run, but nothing here tells it from the run's other calls."""


@dataclass
class _Counts:
    """What was drawn in one frame, and by the runs that were started in it."""

    drawn: Counter[Hashable] = field(default_factory=Counter)
    returned: dict[Hashable, list[int]] = field(default_factory=dict)
    runs: dict[str, dict[Hashable, list[int]]] = field(default_factory=dict)


@dataclass
class _Process:
    """What this process knows: counters by the identity of a frame's context, and what it was forked with."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    counts: dict[int, _Counts] = field(default_factory=dict)
    inherited: list[Any] = field(default_factory=list)


_process = _Process()


def current_place() -> Place | None:
    """The place of the caller; None outside any run.

    Raises:
        UnknownPlace: it runs on behalf of a run whose counters are in another process.
    """
    flows, tasks = _stack(FlowRunContext.get()), _stack(TaskRunContext.get())
    if not flows and not tasks:
        return None
    if any(context is one for context in (*flows, *tasks) for one in _process.inherited):
        raise UnknownPlace("it was forked from the process that runs the task")
    if flows and flows[0].detached:
        return _place_of_task(
            flows[0], tasks, "runs in another process than its flow, and a flow that is run again makes a new task run"
        )
    frames = tuple(_chain([flow for flow in flows if not flow.detached], tasks))
    if not _is_whole(frames):
        return _place_of_task(
            flows[0] if flows else None, tasks, "outlives the task that called it, and may be called anew"
        )
    doubt = ""
    if frames[-1].is_flow and (flows[-1].detached or (tasks and tasks[-1].task_run.flow_run_id is None)):
        doubt = "is in a flow that was called from a task out of sight, and would be called anew as another flow run"
    return _place(frames, doubt)


@dataclass
class Draw:
    """A number that was drawn.

    Attributes:
        ordinal: the number among the calls of the run that do the same.
    """

    ordinal: int
    _counts: _Counts
    _what: Hashable
    _number: int

    def give_back(self) -> None:
        """The call failed: the next one of its try that does the same is this one, tried again."""
        with _process.lock:
            heappush(self._counts.returned.setdefault(self._what, []), self._number)


def draw(place: Place, what: Hashable) -> Draw:
    """The ordinal of a call among the calls of its run that do the same.

    A try that is run again draws what the try before it drew: the n-th call of a kind in a try gets
    the number of the n-th such call in the earlier tries of the same run.

    Args:
        place: where the call stands.
        what: what the calls have in common.
    """
    with _process.lock:
        counts = _counts_of(place.frames[0].context)
        returned = counts.returned.get(what)
        number = heappop(returned) if returned else None
        if number is None:
            number = _count(counts, what)
        return Draw(_ordinal(place.frames, 0, what, number), counts, what, number)


def _ordinal(frames: tuple[Frame, ...], index: int, what: Hashable, number: int) -> int:
    """What the n-th call in a frame is in the frame's run, and in the runs around it."""
    if index + 1 == len(frames):
        return number
    caller = _counts_of(frames[index + 1].context)
    known = caller.runs.setdefault(frames[index].run_id, {}).setdefault(what, [])
    while len(known) <= number:
        known.append(_ordinal(frames, index + 1, what, _count(caller, what)))
    return known[number]


def _count(counts: _Counts, what: Hashable) -> int:
    number = counts.drawn[what]
    counts.drawn[what] += 1
    return number


def _counts_of(context: RunContext) -> _Counts:
    key = id(context)
    found = _process.counts.get(key)
    if found is None:
        found = _process.counts[key] = _Counts()
        weakref.finalize(context, _process.counts.pop, key, None).atexit = False
    return found


def _stack(context: Any) -> list[Any]:
    """A context and those that it was entered in, innermost first."""
    found: list[Any] = []
    while isinstance(context, (FlowRunContext, TaskRunContext)) and not any(context is one for one in found):
        if getattr(context, "flow_run", True) is not None:
            found.append(context)
        # What a context variable held before is kept in the token alone.
        context = getattr(getattr(context, "_token", None), "old_value", None)
    return found


def _chain(flows: list[Any], tasks: list[Any]) -> Iterator[Frame]:
    """The frames of flows and of the tasks that belong to each, innermost first."""
    for flow in (*flows, None):
        flow_run_id = flow.flow_run.id if flow is not None else None
        previous: UUID | None = None
        for task in tasks:
            # A task run is entered twice, once for all of its tries and once for this one.
            if task.task_run.flow_run_id == flow_run_id and task.task_run.id != previous:
                previous = task.task_run.id
                yield Frame(task, str(previous), _name_of(task.task))
        if flow is not None:
            yield Frame(flow, str(flow_run_id), flow.flow.name if flow.flow is not None else "flow")
            if flow.flow_run.parent_task_run_id is None:
                return


def _name_of(task: Any) -> str:
    """The task's key without its hash of the code: a mended task that is run again is still itself."""
    return str(getattr(task.fn, "__qualname__", None) or task.name)


def _is_whole(frames: tuple[Frame, ...]) -> bool:
    """Whether no caller is missing: one that has ended does not know any more who called it."""
    for frame in frames:
        context = frame.context
        if getattr(context, "_token", None) is None:
            if isinstance(context, TaskRunContext):
                called = bool(context.task_run.task_inputs.get("__parents__"))
            else:
                called = context.flow_run is not None and context.flow_run.parent_task_run_id is not None
            if called:
                return False
    return True


def _place(frames: tuple[Frame, ...], doubt: str) -> Place:
    last = frames[-1]
    if isinstance(last.context, TaskRunContext):
        return Place("task-run", last.run_id, tuple(frame.name for frame in reversed(frames)), frames, doubt=doubt)
    return Place(
        kind="flow-run",
        run_id=last.run_id,
        path=tuple(frame.name for frame in reversed(frames[:-1])),
        frames=frames,
        skips=(*_kept_results(), *_kept_subflows(frames)),
        attempt=last.context.flow_run.run_count if last.context.flow_run is not None else 0,
        doubt=doubt,
    )


def _place_of_task(flow: Any, tasks: list[Any], doubt: str) -> Place:
    """The place of a call of which only the task is known."""
    own: list[Any] = [task for task in tasks if flow is None or task.task_run.flow_run_id == flow.flow_run.id]
    if not own:
        raise UnknownPlace("it runs for a flow in another process, and in no task")
    context: TaskRunContext = own[0]
    outer = _stack(context)[1:]
    entered_twice = outer and getattr(outer[0], "task_run", None) is context.task_run
    if not entered_twice:
        # Prefect enters the context of a task run twice. This one was copied and handed over, maybe to
        # several processes, each of which would count from 0.
        raise UnknownPlace("it runs beside its task, with a copy of its context")
    frame = Frame(context, str(context.task_run.id), _name_of(context.task))
    return Place("task-run", frame.run_id, (frame.name,), (frame,), doubt=doubt)


def _kept_results() -> Iterator[str]:
    """Keys of the transactions around a call whose records make Prefect skip them another time."""
    transaction: Any = get_transaction()
    seen: list[Any] = []
    while transaction is not None and not any(transaction is one for one in seen):
        seen.append(transaction)
        if transaction.key and transaction.write_on_commit:
            yield str(transaction.key)
        transaction = transaction.get_parent()


def _kept_subflows(frames: tuple[Frame, ...]) -> Iterator[str]:
    """Subflows that are not run again once they are complete: those that keep their results.

    Prefect tells them apart by a tracking task run, the same in every attempt; one that a task calls
    gets a new one each time, and is always run again.
    """
    for frame, caller in pairwise(frames):
        context = frame.context
        if isinstance(context, FlowRunContext) and context.persist_result and caller.is_flow:
            assert context.flow_run is not None
            yield str(context.flow_run.parent_task_run_id)


def _after_fork() -> None:
    """A forked child has copies of the counters: what it would draw, its siblings draw too."""
    _process.lock = threading.Lock()
    _process.inherited.extend(_stack(FlowRunContext.get()))
    _process.inherited.extend(_stack(TaskRunContext.get()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
if getattr(multiprocessing.current_process(), "_start_method", None) == "fork":
    _after_fork()  # imported only after the fork, perhaps within a task's copied context
