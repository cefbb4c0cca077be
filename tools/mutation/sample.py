"""Lists all mutants of the packages, takes some by a seed, and divides them among sessions of Cosmic Ray.

``sample.py SEED NUMBER SESSION...`` in a checkout; ``sample.py --dump SESSION...`` prints what became of them.
A mutant is drawn by a digest of the seed, its operator and its line, so that a change elsewhere draws no others.
Left out before the draw is what no test can see: annotations (which nothing evaluates), docstrings, overloads of
types, and operators that Cosmic Ray applies to what is only for type checkers.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cosmic_ray.commands import init
from cosmic_ray.modules import find_modules
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import WorkItem

PACKAGES = (
    "datashard_core/format",
    "datashard_core/query",
    "datashard_core/table",
    "datashard_core/storage",
    "datashard_core/config.py",
    "providers/airflow/airflow_provider_datashard",
    "providers/prefect/prefect_datashard",
)
Span = tuple[tuple[int, int], tuple[int, int]]


def sample(seed: int, number: int, sessions: Sequence[str]) -> None:
    """Write a share of the drawn mutants into each session."""
    everything = Path(sessions[0]).with_name("all.sqlite")
    with use_db(str(everything), WorkDB.Mode.create) as db:
        init(sorted(find_modules([Path(package) for package in PACKAGES])), db, {})
        items = sorted(db.work_items, key=_place)
    everything.unlink()
    spans: dict[Path, list[Span]] = {}
    lines: dict[Path, list[str]] = {}
    alike: Counter[str] = Counter()
    drawn: dict[bytes, WorkItem] = {}
    for item in items:
        (mutation,) = item.mutations
        path = mutation.module_path
        if path not in spans:
            source = path.read_text()
            spans[path], lines[path] = unseen(ast.parse(source)), source.split("\n")
        if any(start <= mutation.start_pos and mutation.end_pos <= end for start, end in spans[path]):
            continue
        name = f"{seed} {path} {mutation.operator_name} {lines[path][mutation.start_pos[0] - 1].strip()}"
        alike[name] += 1
        drawn[hashlib.sha256(f"{name} {alike[name]}".encode()).digest()] = item
    print(f"{len(items)} mutants, {len(drawn)} of them in code that runs, {number} are drawn")
    chosen = sorted((drawn[key] for key in sorted(drawn)[:number]), key=_place)
    for index, session in enumerate(sessions):
        with use_db(session, WorkDB.Mode.create) as db:
            db.clear()
            db.add_work_items(chosen[index :: len(sessions)])


def _place(item: WorkItem) -> tuple[str, str, int]:
    (mutation,) = item.mutations
    return str(mutation.module_path), mutation.operator_name, mutation.occurrence


def unseen(tree: ast.Module) -> list[Span]:
    """Where in a module nothing runs: annotations, and what stands under ``if TYPE_CHECKING``."""
    nodes: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            nodes.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            nodes.append(node.returns)
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            nodes += [node.test, *node.body]
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp) and _is_union(node.value):
            nodes.append(node.value)
    return [((n.lineno, n.col_offset), (n.end_lineno, n.end_col_offset)) for n in nodes]  # type: ignore[attr-defined]


def _is_union(node: ast.expr) -> bool:
    """Whether an expression is ``A | B`` of names that begin as types do."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _is_union(node.left) and _is_union(node.right)
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name[:1].isupper() and not name.isupper()


def dump(sessions: Sequence[str]) -> None:
    """Print the outcome of each mutant as JSON."""
    found = []
    for session in sessions:
        with use_db(session, WorkDB.Mode.open) as db:
            results = dict(db.results)
            for item in db.work_items:
                (mutation,) = item.mutations
                result = results.get(item.job_id)
                diff = (result.diff or "") if result is not None else ""
                before = [line[1:].strip() for line in diff.split("\n")[3:] if line.startswith("-")]
                outcome = result.test_outcome if result is not None else None
                found.append(
                    {
                        "module": str(mutation.module_path),
                        "operator": mutation.operator_name.partition("/")[2],
                        "line": " ".join(before),
                        "outcome": outcome.value if outcome is not None else "not run",
                        "diff": "\n".join(diff.split("\n")[3:]),
                    }
                )
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    if sys.argv[1] == "--dump":
        dump(sys.argv[2:])
    else:
        sample(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
