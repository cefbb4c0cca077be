"""Changes the code in small ways, one at a time, and counts how many of the changes the tests notice.

``python3 tools/mutation/run.py [--mutants 200] [--seed 17] [--workers 2]``

Cosmic Ray makes the mutants and runs them, each in a clone of the checkout below ``.envs/mutation``. A mutant is
tested by those tests of the README's test command that reach its lines (``covering.py``); it is killed if one of
them fails. The survivors are printed, and held against ``survivors.toml`` beside this file, which gives the
reason for each that is equivalent to the code, or known. The exit code is 1 if a survivor is not listed there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]

import environments  # noqa: E402
import run as test_command  # noqa: E402

PLACE = environments.ENVS / "mutation-work"
PLUGINS = PLACE / "plugins"
COVERED = PLACE / "covered.json"
LEAST_KILLED = 0.92


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mutants", type=int, default=200, help="how many mutants are tried")
    parser.add_argument("--seed", type=int, default=17, help="which of all possible mutants are taken")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="clones that work side by side")
    parser.add_argument("--again", action="store_true", help="use the clones and the map of an earlier call")
    chosen = parser.parse_args(arguments)
    python = environments.prepare(["mutation"])["mutation"]
    trees = [PLACE / f"tree-{number}" for number in range(chosen.workers)]
    if not chosen.again:
        shutil.rmtree(PLACE, ignore_errors=True)
        for tree in trees:
            clone(tree)
        map_lines(trees[0])
    subprocess.run(
        [python, HERE / "sample.py", str(chosen.seed), str(chosen.mutants), *map(session_of, trees)],
        cwd=trees[0],
        check=True,
    )
    with ThreadPoolExecutor(len(trees)) as pool:
        list(pool.map(lambda tree: execute(tree, python), trees))
    dumped = subprocess.run(
        [python, HERE / "sample.py", "--dump", *map(session_of, trees)], check=True, stdout=subprocess.PIPE
    )
    return report(json.loads(dumped.stdout))


def session_of(tree: Path) -> str:
    """The file in which Cosmic Ray keeps what one clone has to do."""
    return str(tree.with_suffix(".sqlite"))


def clone(tree: Path) -> None:
    """A clone of the last commit, with environments of its own."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tree)], check=True)
    names = sorted({suite.environment for suite in test_command.SUITES})
    subprocess.run([sys.executable, "tools/environments.py", *names], cwd=tree, check=True)


def map_lines(tree: Path) -> None:
    """Run the test command's suites once, and keep which tests reach which line, and how long each takes."""
    uv = str(environments.ENVS / "tools" / "bin" / "uv")
    subprocess.run([uv, "pip", "install", "-q", "--no-deps", "--target", PLUGINS, "coverage", "pytest-cov"], check=True)
    lines: dict[str, dict[str, list[str]]] = {}
    seconds: dict[str, float] = {}
    for suite in test_command.SUITES:
        data, results = PLACE / f"{suite.name}.coverage", PLACE / f"{suite.name}.json"
        settings = PLACE / "coveragerc"
        settings.write_text(f"[run]\nsource = {tree}/datashard_core,{tree}/providers\ncore = ctrace\n")
        command = [tree / ".envs" / suite.environment / "bin" / "python", "-P", "-m", "pytest", "-q"]
        command += [
            "-p",
            "durations_plugin",
            "--cov",
            "--cov-report=",
            "--cov-context=test",
            f"--cov-config={settings}",
        ]
        command += [*suite.options, *(f"tests/{folder}" for folder in suite.folders)]
        variables = {**test_command.clean_environment(), "PYTHONPATH": f"{PLUGINS}:{HERE}", "COVERAGE_FILE": str(data)}
        subprocess.run(command, cwd=tree, env={**variables, "MUTATION_DURATIONS": str(results)}, check=False)
        dumped = subprocess.run(
            [command[0], HERE / "durations_plugin.py", str(data), str(tree)],
            env=variables,
            check=True,
            stdout=subprocess.PIPE,
        )
        for file, tests in json.loads(dumped.stdout).items():
            for line, names in tests.items():
                lines.setdefault(file, {}).setdefault(line, []).extend(f"{suite.name} {name}" for name in names)
        for name, taken in json.loads(results.read_text()).items():
            seconds[f"{suite.name} {name}"] = taken
    COVERED.write_text(json.dumps({"lines": lines, "seconds": seconds}))


def execute(tree: Path, python: Path) -> None:
    """Let Cosmic Ray try the mutants of one clone."""
    subprocess.run(
        [python.parent / "cosmic-ray", "exec", HERE / "cosmic-ray.toml", session_of(tree)],
        cwd=tree,
        env={**os.environ, "MUTATION_COVERED": str(COVERED)},
        check=True,
    )


def report(results: Sequence[dict[str, str]]) -> int:
    """Print what became of the mutants; 1 if too few were killed, or a survivor is not listed."""
    listed = tomllib.loads((HERE / "survivors.toml").read_text())["survivor"]
    reasons = {(one["module"], one["line"], one["operator"]): one for one in listed}
    outcomes = Counter(one["outcome"] for one in results)
    equivalent, unknown = 0, 0
    for one in results:
        if one["outcome"] == "killed":
            continue
        known = reasons.get((one["module"], one["line"], one["operator"]))
        equivalent += known is not None and known["equivalent"]
        unknown += known is None
        print(f"\n{one['module']}: {one['operator']} ({one['outcome']})\n{one['diff']}")
        print(f"-> {known['reason'] if known is not None else 'not listed in survivors.toml'}")
    share = outcomes["killed"] / max(1, len(results) - equivalent)
    print(
        f"\n{len(results)} mutants, {equivalent} equivalent to the code; of the others {outcomes['killed']} killed "
        f"({share:.1%}), {len(results) - equivalent - outcomes['killed']} survived ({unknown} of all not listed)"
    )
    return 1 if unknown or share < LEAST_KILLED else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
