"""Registration in a REST catalog: Iceberg's own server, from Maven, with a table on local disk.

Needs Java 17 or newer and Maven.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

HERE = Path(__file__).parent / "rest_catalog"
ROOT = HERE.parents[2]
START_SECONDS = 120.0

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a running server."""
    for command in ("java", "mvn"):
        assert shutil.which(command), f"{command} is missing (Debian and Ubuntu: apt-get install default-jdk maven)"
    folder = tmp_path_factory.mktemp("rest")
    build = ["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies"]
    made = subprocess.run(
        [*build, f"-DoutputDirectory={folder}/lib"], capture_output=True, text=True, check=False, timeout=900
    )
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "CATALOG_REST_PORT": str(port),
        "CATALOG_WAREHOUSE": str(folder / "warehouse"),
        "CATALOG_CATALOG__IMPL": "org.apache.iceberg.jdbc.JdbcCatalog",
        "CATALOG_URI": f"jdbc:sqlite:{folder}/catalog.db",
    }
    log = folder / "log"
    command = ["java", "-cp", f"{folder}/lib/*", "org.apache.iceberg.rest.RESTCatalogServer"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=out, stderr=out)
    try:
        wait_for(f"http://127.0.0.1:{port}/v1/config", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            with urlopen(url, timeout=5):
                return
        except OSError:
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.3)


def test_a_registration_follows_the_table(server: str, tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "environments.py"), "interop"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    python = str(ROOT / ".envs" / "interop" / "bin" / "python")
    done = subprocess.run(
        [python, "-P", str(HERE / "register_tables.py"), str(tmp_path / "warehouse"), server],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("registered\n")
