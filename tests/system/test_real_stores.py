"""The storage contract and concurrent writers over MinIO and VersityGW, through both transports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from typing import Any, get_args

import pytest
from datashard_testkit.contract import CHECKS, Check

import datashard_core as ds
from datashard_core.clock import SYSTEM_CLOCK
from datashard_core.config import TransportChoice
from datashard_core.errors import StorageError
from datashard_core.storage.probe import _prove
from datashard_core.storage.s3 import S3Storage
from datashard_core.table.warehouse import Warehouse

pytestmark = [pytest.mark.system, pytest.mark.stores]

TRANSPORTS = tuple(choice for choice in get_args(TransportChoice) if choice != "auto")
SCHEMA = ds.Schema(
    fields=[{"id": 1, "name": "writer", "type": "string"}, {"id": 2, "name": "n", "type": "long"}],
)
WRITERS, APPENDS = 6, 12


def fresh(what: str) -> str:
    return f"{what}-{os.urandom(4).hex()}"


@pytest.mark.parametrize("versioned", [False, True], ids=["plain", "versioned"])
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(store: Any, check: Check, transport: TransportChoice, versioned: bool) -> None:
    storage = S3Storage(store.config(fresh("contract"), versioned=versioned, transport=transport))
    assert storage.metrics().transport == transport
    check(storage)


@pytest.mark.parametrize("versioned", [False, True], ids=["plain", "versioned"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_store_is_proved_to_keep_conditions(store: Any, transport: TransportChoice, versioned: bool) -> None:
    storage = S3Storage(store.config(fresh("proof"), versioned=versioned, transport=transport))
    _prove(storage, SYSTEM_CLOCK)
    assert list(storage.list("")) == []


_WRITER = """
import json, sys
from datashard_core import S3Config, load_table

job = json.loads(sys.stdin.readline())
table = load_table(job["uri"], config=S3Config(**job["settings"]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(job["appends"]):
    append_id = f"{job['name']} {number}" if number % 2 else None
    table.append([{"writer": job["name"], "n": number}], append_id=append_id)
assert table.metrics().transport == job["settings"]["transport"]
print("done", flush=True)
"""


@pytest.mark.parametrize("versioned", [False, True], ids=["plain", "versioned"])
def test_processes_append_at_the_same_time_over_both_transports(store: Any, versioned: bool) -> None:
    config = store.config(fresh("together"), versioned=versioned)
    warehouse = Warehouse(S3Storage(config))
    table = warehouse.create_table("t", SCHEMA)
    settings = {
        "bucket": config.bucket,
        "prefix": config.prefix,
        "endpoint": config.endpoint,
        "region": "us-east-1",
        "access_key": config.access_key,
        "secret_key": config.secret_key,
    }
    writers = []
    for number in range(WRITERS):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        job = {"uri": table.uri, "name": f"w{number}", "appends": APPENDS}
        job["settings"] = {**settings, "transport": TRANSPORTS[number % 2]}
        writers.append(writer)
        assert writer.stdin is not None
        writer.stdin.write(json.dumps(job) + "\n")
        writer.stdin.flush()
    for writer in writers:
        assert writer.stdout is not None and writer.stdin is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.communicate(timeout=300)[0] for writer in writers] == ["done\n"] * WRITERS
    table = warehouse.load_table("t")
    found = Counter((row["writer"], row["n"]) for row in table.scan().to_records())
    assert found == Counter((f"w{writer}", n) for writer in range(WRITERS) for n in range(APPENDS))
    assert table.append([{"writer": "w0", "n": 1}], append_id="w0 1").already_appended
    assert table.version < WRITERS * APPENDS + 5, "commits were not shared"


@pytest.mark.parametrize("store", ["minio"], indirect=True)
def test_what_is_asked_to_be_encrypted_is(store: Any) -> None:
    storage = S3Storage(store.config(fresh("sse"), sse="AES256"))
    assert storage.metrics().transport == "boto3"
    storage.put("k", b"x")
    head = store.client("s3").head_object(Bucket="plain", Key=f"{storage.config.prefix}/k")
    assert head["ServerSideEncryption"] == "AES256"
    warehouse = Warehouse(storage)
    warehouse.create_table("t", SCHEMA).append([{"writer": "a", "n": 1}])
    assert warehouse.load_table("t").count() == 1


@pytest.mark.parametrize("store", ["versitygw"], indirect=True)
def test_a_store_that_takes_the_header_and_encrypts_nothing_is_noticed(store: Any) -> None:
    with pytest.raises(StorageError, match="did not encrypt it with AES256") as caught:
        S3Storage(store.config(fresh("sse"), sse="AES256")).put("k", b"x")
    assert caught.value.reason == "unsupported"


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("store", ["minio"], indirect=True)
def test_temporary_keys_of_a_role(store: Any, transport: TransportChoice) -> None:
    """MinIO checks signatures, tokens and policies: what the ordinary tier's server does not."""
    allowed = {"Effect": "Allow", "Action": "s3:*", "Resource": ["arn:aws:s3:::plain", "arn:aws:s3:::plain/*"]}
    given = store.client("sts").assume_role(
        RoleArn="arn:aws:iam::123456789012:role/r",
        RoleSessionName="session",
        Policy=json.dumps({"Version": "2012-10-17", "Statement": [allowed]}),
    )["Credentials"]
    keys = {
        "access_key": given["AccessKeyId"],
        "secret_key": given["SecretAccessKey"],
        "session_token": given["SessionToken"],
        "transport": transport,
    }
    warehouse = Warehouse(S3Storage(store.config(fresh("role"), **keys)))
    warehouse.create_table("t", SCHEMA).append([{"writer": "a", "n": 1}])
    with pytest.raises(StorageError, match="access denied: s3:PutObject is missing") as caught:
        S3Storage(store.config(fresh("role"), versioned=True, **keys)).put("k", b"x")
    assert caught.value.reason == "access-denied"
    with pytest.raises(StorageError) as caught:
        S3Storage(store.config(fresh("role"), **{**keys, "session_token": "another"})).put("k", b"x")
    assert caught.value.reason == "credentials-missing"
