"""The README's Python is run as it stands, so that it stays true."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from datashard_testkit.s3_server import S3Server

ROOT = Path(__file__).resolve().parent.parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
HOSTS = ("airflow", "prefect")
SCRIPTS = [block for block in BLOCKS if not any(host in block for host in HOSTS)]
"""What runs with the core alone; the providers' suites run the examples of their own READMEs."""


def test_python_of_the_readme_runs_as_one_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "readme.py"
    with S3Server(bucket="my-bucket", access_key="minioadmin", secret_key="minioadmin") as server:
        text = "\n".join(SCRIPTS).replace("http://localhost:9000", server.endpoint)
        script.write_text(text)
        done = subprocess.run(
            [sys.executable, "-W", "error::DeprecationWarning:datashard_core", script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert text.count("append(") >= 3, "the README shows appends; were its blocks found?"


@pytest.mark.parametrize(("page", "count"), [("reading", 5), ("appends", 3), ("copies", 1)])
def test_python_of_a_page_runs_as_one_script(page: str, count: int, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)
    assert len(blocks) == count
    script = tmp_path / f"{page}.py"
    script.write_text("\n".join(blocks))
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[0][:50])
def test_every_block_is_python(block: str) -> None:
    assert compile(block, "README.md", "exec").co_consts
