"""A process that forks while its threads append: the child appends through what it inherited, within seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datashard_testkit.s3_server import S3Server

from datashard_core import S3Config

_APPENDING = """
import json, multiprocessing, os, sys, threading, time, warnings

warnings.simplefilter("ignore")
import datashard_core as ds
from datashard_core import S3Config, connect

said = json.loads(sys.stdin.read())
warehouse = connect(config=S3Config(**said["s3"])) if "s3" in said else connect(said["folder"])
schema = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
table = warehouse.create_table("t", schema)
stop, appended = threading.Event(), []


def append_on(own):
    while not stop.is_set():
        table.append([{"n": own}])
        appended.append(own)


def in_child(number):
    begun = time.monotonic()
    table.append([{"n": number}], timeout=20)
    table.append([{"n": number}], append_id=f"child/{number}", timeout=20)
    warehouse.load_table("t").append([{"n": number}], timeout=20)
    assert table.refresh().scan().to_records()
    return time.monotonic() - begun


threads = [threading.Thread(target=append_on, args=(-number,), daemon=True) for number in (1, 2, 3)]
for one in threads:
    one.start()
while len(appended) < 6:
    time.sleep(0.01)
took, failed = [], []
for number in range(1, said["children"] + 1):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = repr(in_child(number))
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(write, answer.encode())
        os._exit(0)
    os.close(write)
    answer = b"".join(iter(lambda: os.read(read, 65536), b"")).decode()
    os.waitpid(child, 0)
    try:
        took.append(float(answer))
    except ValueError:
        failed.append(answer)
if said["pool"]:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        took += pool.map(in_child, [101, 102], chunksize=1)
before = len(appended)
while len(appended) < before + 6:
    time.sleep(0.01)
stop.set()
for one in threads:
    one.join(30)
alive = [one.name for one in threads if one.is_alive()]
rows = [row["n"] for row in table.refresh().scan().to_records()]
counts = {n: rows.count(n) for n in sorted(set(rows)) if n > 0}
mine = sum(1 for n in rows if n < 0)
print(json.dumps({"took": took, "failed": failed, "alive": alive, "counts": counts, "own": mine == len(appended)}))
"""


def _run(code: str, settings: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        input=json.dumps(settings),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _settings(server: S3Server, config: S3Config, transport: str) -> dict[str, Any]:
    return {
        "bucket": config.bucket,
        "prefix": config.prefix,
        "endpoint": server.endpoint,
        "region": "us-east-1",
        "access_key": server.access_key,
        "secret_key": server.secret_key,
        "transport": transport,
    }


@pytest.mark.parametrize("place", ("local", "boto3", "auto"))
def test_children_append_while_threads_of_the_parent_do(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where: dict[str, Any] = {"folder": str(tmp_path / "warehouse")}
    if place != "local":
        server: S3Server = request.getfixturevalue("s3_server")
        where = {"s3": _settings(server, request.getfixturevalue("s3_config"), place)}
    answer = _run(_APPENDING, {**where, "children": 3, "pool": True})
    assert answer["failed"] == []
    assert answer["alive"] == []
    assert answer["own"], "a row of the parent is lost or doubled"
    assert answer["counts"] == {str(n): 3 for n in (1, 2, 3, 101, 102)}
    assert max(answer["took"]) < 15


_HELD = """
import json, os, sys, threading, time

import datashard_core as ds
from datashard_core.forks import _registered
from datashard_core.storage import environment
from datashard_core.storage.environment import without_aws_variables

said = json.loads(sys.stdin.read())
os.environ["AWS_REGION"] = "eu-north-7"
warehouse = ds.connect(said["folder"])
schema = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}])
table = warehouse.create_table("t", schema)
table.append([{"n": 0}])
table.scan().to_records()
locks = [one._lock for one in list(_registered)]
held, done = threading.Event(), threading.Event()


def hold():
    for lock in locks:
        lock.acquire()
    table._shared._led = True
    with without_aws_variables():
        held.set()
        done.wait()
    table._shared._led = False
    for lock in locks:
        lock.release()


holder = threading.Thread(target=hold, daemon=True)
holder.start()
held.wait()
read, write = os.pipe()
child = os.fork()
if child == 0:
    try:
        table.append([{"n": 1}], timeout=10)
        table.refresh().scan().to_records()
        table.metrics()
        answer = os.environ.get("AWS_REGION", "hidden")
    except BaseException as error:
        answer = f"{type(error).__name__}: {error}"
    os.write(write, answer.encode())
    os._exit(0)
os.close(write)
import signal

signal.alarm(60)
answer = b"".join(iter(lambda: os.read(read, 65536), b"")).decode()
os.waitpid(child, 0)
done.set()
holder.join()
table.append([{"n": 2}])
rows = sorted(row["n"] for row in table.refresh().scan().to_records())
print(json.dumps({"child": answer, "rows": rows, "locks": len(locks), "region": os.environ["AWS_REGION"]}))
"""


def test_a_child_finds_every_lock_open_that_a_thread_held_at_the_fork(tmp_path: Path) -> None:
    answer = _run(_HELD, {"folder": str(tmp_path / "warehouse")})
    assert answer["locks"] >= 5
    assert answer == {"child": "eu-north-7", "rows": [0, 1, 2], "locks": answer["locks"], "region": "eu-north-7"}
