"""Stores that let several writers create one name are refused, by every process; commits that one lost are noticed.

S3Proxy (Java) and s3s-fs (Rust) check If-None-Match first and write later. They are got from Maven Central and
crates.io once, below ``.envs``; a program that is there already is named by a variable.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
from datashard_testkit.s3_server import S3Server
from msgspec.structs import replace

import datashard_core as ds
from datashard_core.config import S3Config
from datashard_core.storage.s3 import S3Storage
from datashard_core.table.warehouse import Warehouse

pytestmark = pytest.mark.system

FRESH = 50
WRITERS, APPENDS = 6, 8
SCHEMA = ds.Schema(fields=[{"id": 1, "name": "writer", "type": "string"}, {"id": 2, "name": "n", "type": "long"}])
BUILT = Path(__file__).resolve().parents[2] / ".envs" / "stores"
BUILD_SECONDS = 1800
START_SECONDS = 90.0
KEY, SECRET, BUCKET = "datashard-key", "datashard-secret", "bucket"
S3PROXY_VERSION, S3S_FS_VERSION = "3.1.0", "0.14.1"

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>tests</groupId><artifactId>s3proxy-classpath</artifactId><version>1</version><dependencies><dependency>
<groupId>org.gaul</groupId><artifactId>s3proxy</artifactId><version>{S3PROXY_VERSION}</version>
</dependency></dependencies></project>"""

_CONF = """s3proxy.endpoint=http://127.0.0.1:{port}
s3proxy.authorization=aws-v2-or-v4
s3proxy.identity={key}
s3proxy.credential={secret}
s3proxy.ignore-unknown-headers=true
jclouds.provider=filesystem-nio2
jclouds.filesystem.basedir={data}
"""


def s3proxy(folder: Path, port: int) -> list[str]:
    """The command that serves a folder by S3Proxy; ``DATASHARD_S3PROXY`` may name a folder of its jars."""
    given = os.environ.get("DATASHARD_S3PROXY")
    jars = Path(given) if given else BUILT / f"s3proxy-{S3PROXY_VERSION}"
    if shutil.which("java") is None:
        pytest.skip("S3Proxy needs java, which is not here")
    if not jars.is_dir():
        if shutil.which("mvn") is None:
            pytest.skip("S3Proxy is got by mvn, which is not here: install it, or set DATASHARD_S3PROXY")
        (folder / "pom.xml").write_text(_POM)
        target = folder / "jars"
        command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={target}"]
        subprocess.run([*command, "-DincludeScope=runtime"], cwd=folder, check=True, timeout=BUILD_SECONDS)
        jars.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(target, jars)
    (folder / "conf").write_text(_CONF.format(port=port, key=KEY, secret=SECRET, data=folder / "data"))
    return ["java", "-cp", f"{jars}/*", "org.gaul.s3proxy.Main", "--properties", str(folder / "conf")]


def s3s_fs(folder: Path, port: int) -> list[str]:
    """The command that serves a folder by s3s-fs; ``DATASHARD_S3S_FS`` may name the program."""
    given = os.environ.get("DATASHARD_S3S_FS")
    built = BUILT / f"s3s-fs-{S3S_FS_VERSION}"
    program = Path(given) if given else built / "bin" / "s3s-fs"
    if not program.exists():
        if shutil.which("cargo") is None:
            pytest.skip("s3s-fs is built by cargo, which is not here: install it, or set DATASHARD_S3S_FS")
        what = ["s3s-fs", "--version", S3S_FS_VERSION, "--features", "binary", "--root", str(built)]
        subprocess.run(["cargo", "install", *what], check=True, timeout=BUILD_SECONDS)
    keys = ["--access-key", KEY, "--secret-key", SECRET]
    return [str(program), "--host", "127.0.0.1", "--port", str(port), *keys, str(folder / "data")]


KINDS = {"s3proxy": s3proxy, "s3s-fs": s3s_fs}


@contextmanager
def serving(kind: str, folder: Path) -> Iterator[S3Config]:
    """A store of a kind in a process of its own, and how its one bucket is reached."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "data" / BUCKET).mkdir(parents=True)
    command = KINDS[kind](folder, port)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            endpoint = f"http://127.0.0.1:{port}"
            _wait(process, endpoint, folder / "log")
            yield S3Config(bucket=BUCKET, endpoint=endpoint, region="us-east-1", access_key=KEY, secret_key=SECRET)
        finally:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, f"it ended: {log.read_text()[-2000:]}"
        try:
            urlopen(endpoint, timeout=5).close()
        except HTTPError:
            return  # it refuses who has no key
        except (URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"it did not answer: {log.read_text()[-2000:]}")


@pytest.fixture(params=list(KINDS))
def unsafe(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[S3Config]:
    with serving(request.param, tmp_path) as config:
        yield config


_CREATE = """
import json, sys
import datashard_core as ds
from datashard_core import S3Config
from datashard_core.storage.s3 import S3Storage
from datashard_core.table.warehouse import Warehouse

settings = json.loads(sys.argv[1])
schema = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
try:
    Warehouse(S3Storage(S3Config(**settings))).create_table("t", schema)
except ds.StoreNotConditionalError as error:
    print(f"refused: {error}")
else:
    print("accepted")
"""


def settings_of(config: S3Config, **changes: Any) -> str:
    names = ("bucket", "prefix", "endpoint", "region", "access_key", "secret_key", "transport")
    return json.dumps({name: getattr(replace(config, **changes), name) for name in names})


def test_every_fresh_process_refuses_it(unsafe: S3Config) -> None:
    told: Counter[str] = Counter()
    for number in range(FRESH):
        # Half of them in one warehouse: what one process leaves must not make the next one trust the store.
        prefix = "one" if number % 2 else f"w{number}"
        transport = "obstore" if number % 4 < 2 else "boto3"
        command = [sys.executable, "-c", _CREATE, settings_of(unsafe, prefix=prefix, transport=transport)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        told[ended.stdout.partition(":")[0].strip() or ended.stderr[-500:]] += 1
        if ended.stdout.startswith("refused"):
            assert "of 16 writers that raced to create one name" in ended.stdout
    assert told == {"refused": FRESH}


_WRITER = """
import json, sys
import datashard_core as ds
from datashard_core import S3Config, load_table

job = json.loads(sys.stdin.readline())
table = load_table(job["uri"], config=S3Config(**job["settings"]))
print("ready", flush=True)
sys.stdin.readline()
done = []
try:
    for number in range(job["appends"]):
        table.append([{"writer": job["name"], "n": number}])
        done.append(number)
except ds.StoreNotConditionalError as error:
    print(json.dumps({"done": done, "error": str(error)}), flush=True)
else:
    print(json.dumps({"done": done, "error": ""}), flush=True)
"""


def test_commits_that_the_store_lost_are_noticed() -> None:
    """The table was created while the store kept conditions; then it checks first and writes 0.1 s later."""
    with S3Server() as server:
        config = server.config(f"lost-{os.urandom(4).hex()}")
        table = Warehouse(S3Storage(config)).create_table("t", SCHEMA)
        writers = []
        for number in range(WRITERS):
            command = [sys.executable, "-c", _WRITER]
            writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            job = {"uri": table.uri, "name": f"w{number}", "appends": APPENDS}
            job["settings"] = json.loads(settings_of(config))
            assert writer.stdin is not None
            writer.stdin.write(json.dumps(job) + "\n")
            writer.stdin.flush()
            writers.append(writer)
        for writer in writers:
            assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        with server.modes("check-then-write=0.1"):
            for writer in writers:
                assert writer.stdin is not None
                writer.stdin.write("go\n")
                writer.stdin.flush()
            ended = [json.loads(writer.communicate(timeout=300)[0]) for writer in writers]
        found = Counter(
            (row["writer"], row["n"]) for row in Warehouse(S3Storage(config)).load_table("t").scan().to_records()
        )
    acknowledged = {(f"w{number}", n) for number, told in enumerate(ended) for n in told["done"]}
    lost = [row for row in acknowledged if not found[row]]
    errors = [told["error"] for told in ended if told["error"]]
    assert lost, "the store lost nothing: the test proves nothing"
    assert errors, f"{len(lost)} acknowledged rows are lost, and every process was told that all is well"
    assert all("does not keep If-None-Match, so commits were lost" in error for error in errors)
