"""Results as they are committed: a page with tables for each benchmark, and charts."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from subprocess import run

from kit.start import BENCHMARKS, ROOT, python_of

RESULTS = BENCHMARKS / "results"
CHARTS = ROOT / "docs" / "benchmarks"
PACKAGES = {
    "bench-core": ("datashard-core", "pyarrow", "boto3", "obstore"),
    "bench-deltalake": ("deltalake",),
    "bench-pyiceberg": ("pyiceberg", "pyarrow"),
    "bench-datashard": ("datashard", "pyarrow", "boto3"),
    "interop": ("duckdb", "chdb"),
}
COLOURS = {"ours": "#1f6feb", "deltalake": "#d97706", "pyiceberg": "#059669", "datashard": "#9333ea"}
NAMES = {"ours": "datashard-core", "deltalake": "deltalake", "pyiceberg": "pyiceberg", "datashard": "datashard 0.11"}


class Report:
    """One page of results, written as it grows so that an interrupted run leaves what it had.

    Args:
        name: of the benchmark: the page is ``results/NAME.md``, its charts ``NAME*.svg``.
        title: its heading.
        environments: those whose packages were measured.
        keep: whether the page is written; a trial run only prints.
    """

    def __init__(self, name: str, title: str, environments: Sequence[str], *, keep: bool) -> None:
        self._name = name
        self._keep = keep
        self._parts = [f"# {title}", _how_it_was_made(environments)]

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self._add(text)

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> None:
        """Add a table; its first column is text, the others are figures."""
        self._add(markdown_table(headers, rows) if not caption else f"{caption}\n\n{markdown_table(headers, rows)}")

    def bars(self, asked: Sequence[tuple[str, str, bool]]) -> None:
        """Say which of the goals were met: what was asked, what was measured, whether that is enough."""
        rows = [[what, found, "met" if met else "missed"] for what, found, met in asked]
        self.table(["asked", "measured", ""], rows)

    def lines(
        self,
        name: str,
        series: Mapping[str, Sequence[tuple[float, float]]],
        *,
        x: str,
        y: str,
        title: str,
    ) -> None:
        """Add a chart of lines, both axes logarithmic.

        Args:
            name: of the file, after that of the benchmark.
            series: points by system.
            x: label of the axis.
            y: label of the axis.
            title: of the chart.
        """
        if not self._keep:
            return
        import matplotlib as mpl

        mpl.use("svg")
        mpl.rcParams["svg.hashsalt"] = "datashard"  # the same figures make the same file
        mpl.rcParams["svg.fonttype"] = "none"
        from matplotlib import pyplot as plt
        from matplotlib.ticker import FuncFormatter

        figure, axes = plt.subplots(figsize=(7, 4))
        for system, points in series.items():
            if points:
                xs, ys = zip(*points, strict=True)
                label = NAMES.get(system, system)
                axes.plot(xs, ys, marker="o", label=label, color=COLOURS.get(system))
        axes.set_xscale("log", base=10 if max((p[0] for s in series.values() for p in s), default=1) > 200 else 2)
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set(xlabel=x, ylabel=y, title=title)
        axes.grid(alpha=0.3, which="both")
        axes.legend()
        figure.tight_layout()
        CHARTS.mkdir(parents=True, exist_ok=True)
        file = CHARTS / f"{self._name}-{name}.svg"
        figure.savefig(file, metadata={"Date": None})
        plt.close(figure)
        self._add(f"![{title}](../../docs/benchmarks/{file.name})")

    def _add(self, part: str) -> None:
        print(f"\n{part}\n", flush=True)
        self._parts.append(part)
        if self._keep:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{self._name}.md").write_text("\n\n".join(self._parts) + "\n")


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(headers) + " |", "| --- |" + " ---: |" * (len(headers) - 1)]
    lines += ["| " + " | ".join(_shown(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _shown(cell: object) -> str:
    if isinstance(cell, float):
        digits = 0 if abs(cell) >= 100 else 1 if abs(cell) >= 10 else 2 if abs(cell) >= 0.1 else 3
        return f"{cell:,.{digits}f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _how_it_was_made(environments: Sequence[str]) -> str:
    command = " ".join(["python3", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    commit = run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    versions = [f"{name} {found}" for environment in environments for name, found in _versions(environment)]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"`{command}`, {datetime.now(UTC):%Y-%m-%d}, commit {commit.stdout.strip() or 'unknown'}. "
        f"{os.cpu_count()} cores ({_processor()}), {memory:.0f} GiB, {platform.system()}, "
        f"Python {platform.python_version()}. {', '.join(dict.fromkeys(versions))}."
    )


def _versions(environment: str) -> list[tuple[str, str]]:
    """What of an environment's packages is worth telling."""
    code = (
        "import sys; from importlib.metadata import distributions; "
        "print(*[f'{d.name}={d.version}' for d in distributions() if d.name in sys.argv[1:]])"
    )
    wanted = PACKAGES[environment]
    done = run([python_of(environment), "-c", code, *wanted], capture_output=True, text=True, check=True)
    found = dict(pair.split("=", 1) for pair in done.stdout.split())
    return [(name, found[name]) for name in wanted if name in found]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.machine()


def own_version() -> str:
    """Version of the core that is measured."""
    return version("datashard-core")
