"""Secrets of a block: in results that are kept, in pickles, in errors about a wrong endpoint."""

from __future__ import annotations

import base64
import json
import lzma
import pickle
import traceback
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from prefect import flow, task
from prefect.filesystems import LocalFileSystem
from prefect.serializers import PickleSerializer
from prefect_aws import AwsCredentials
from pydantic import ValidationError

from prefect_datashard import DataShardBlock

KEY, SECRET, TOKEN = "AKIAIOSFODNN7EXAMPLE", "hunter2-hunter2-hunter2", "token-token-token-token"
FIELDS: dict[str, Any] = {
    "bucket": "logs",
    "endpoint": "http://127.0.0.1:1",
    "access_key": KEY,
    "secret_key": SECRET,
    "session_token": TOKEN,
}


def kept_in(folder: Path) -> bytes:
    """All bytes of the results that were kept, decoded where they are base64 in JSON."""
    found = b""
    for path in folder.rglob("*"):
        if path.is_file():
            body = path.read_bytes()
            found += body
            result = json.loads(body).get("result", "")
            if isinstance(result, str) and not result.startswith("{"):
                decoded = base64.b64decode(result)
                found += lzma.decompress(decoded) if decoded.startswith(b"\xfd7zXZ") else decoded
    return found


def returns_a_block(block: DataShardBlock, folder: Path, serializer: str) -> Any:
    """Run a flow whose task keeps a block as its result."""
    storage = LocalFileSystem(basepath=str(folder))
    storage.save(f"results-{folder.name.replace('_', '-')}", overwrite=True)

    @task(persist_result=True, result_storage=storage, result_serializer=serializer)
    def give() -> DataShardBlock:
        return block

    @flow
    def outer() -> Any:
        return give()

    return outer()


@pytest.mark.parametrize("serializer", ["pickle", "compressed/pickle", "json"])
def test_a_kept_result_that_is_a_block_holds_no_secret(
    tmp_path: Path, serializer: str, caplog: pytest.LogCaptureFixture
) -> None:
    returns_a_block(DataShardBlock(**FIELDS), tmp_path, serializer)
    kept = kept_in(tmp_path)
    assert not [secret for secret in (KEY, SECRET, TOKEN) if secret.encode() in kept]
    assert SECRET not in caplog.text and TOKEN not in caplog.text


def test_the_serializer_of_results_refuses_a_block_with_secrets() -> None:
    with pytest.raises(TypeError, match=r"holds credentials \(bucket logs\) is not pickled"):
        PickleSerializer().dumps(DataShardBlock(**FIELDS))


def test_a_saved_block_is_kept_by_its_name(tmp_path: Path) -> None:
    DataShardBlock(**FIELDS).save("of-the-secrets", overwrite=True)
    saved = DataShardBlock.load("of-the-secrets")
    given = returns_a_block(saved, tmp_path, "pickle")
    kept = kept_in(tmp_path)
    assert b"of-the-secrets" in kept and not [secret for secret in (KEY, SECRET, TOKEN) if secret.encode() in kept]
    assert given.get_config() == saved.get_config()
    sent = cloudpickle.dumps(saved.model_copy(update={"prefix": "elsewhere"}))
    assert SECRET.encode() not in sent
    again = cloudpickle.loads(sent)
    assert again.secret_key.get_secret_value() == SECRET and again.prefix == "elsewhere"


def test_a_block_with_nested_credentials_is_not_pickled_either() -> None:
    nested = AwsCredentials(aws_access_key_id=KEY, aws_secret_access_key=SECRET)
    with pytest.raises(TypeError, match=r"DataShardBlock\.load\(name\)"):
        pickle.dumps(DataShardBlock(bucket="logs", credentials=nested))


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_a_block_without_secrets_is_pickled(dumps: Any, tmp_path: Path) -> None:
    for block in (DataShardBlock(folder=str(tmp_path)), DataShardBlock(bucket="logs", use_instance_role=True)):
        assert pickle.loads(dumps(block)) == block


@pytest.mark.parametrize(
    "endpoint", ["http://me:hunter2@minio:9000", "http://hunter2@minio", "me:hunter2@minio", "http://h/?token=hunter2"]
)
def test_a_secret_in_the_endpoint_is_refused_and_not_repeated(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="endpoint") as caught:
        DataShardBlock(**{**FIELDS, "endpoint": endpoint})
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value.errors(include_input=False))
    assert "hunter2" not in told
