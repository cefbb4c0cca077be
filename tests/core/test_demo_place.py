"""Where the demo's tables are: each side gets in without the user's variables, and nothing of them is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datashard_testkit.s3_server import S3Server

from datashard_core.storage.s3 import S3Storage

ROOT = Path(__file__).resolve().parent.parent.parent

DRIVER = """
import json, sys
from datashard_core import Schema
from main_job.place import open_place

uri, what = sys.argv[1:]
with open_place(uri, keep=what == "keep") as place:
    if what == "fail early":
        raise SystemExit("no Airflow")
    place.warehouse.create_table("t", Schema(fields=[{"id": 1, "name": "n", "type": "long"}])).append([{"n": 1}])
    found = {"uri": place.warehouse.uri, "fields": place.fields, "pyiceberg": place.pyiceberg_properties}
    print(json.dumps(found | {"look": place.how_to_look("python")}))
"""


def run(uri: object, what: str, home: Path, code: int = 0) -> dict[str, Any]:
    """What a place says of itself, asked by a process with the settings in ``home`` and no variables."""
    home.mkdir(exist_ok=True)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "DATASHARD_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(uri), what],
        env={
            **clean,
            "HOME": str(home),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "demo"), str(ROOT / "tools")]),
            "AWS_EC2_METADATA_DISABLED": "true",
        },
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    return found


@pytest.fixture
def home(s3_server: S3Server, tmp_path: Path) -> Path:
    """A home whose AWS profile leads to the server."""
    settings = tmp_path / "home" / ".aws"
    settings.mkdir(parents=True)
    (settings / "credentials").write_text(
        f"[default]\naws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
    )
    (settings / "config").write_text(f"[default]\nregion = eu-west-1\nendpoint_url = {s3_server.endpoint}\n")
    return settings.parent


def test_a_bucket_of_the_default_chain(s3_server: S3Server, home: Path) -> None:
    base = f"demo-place-{os.urandom(4).hex()}"
    storage = S3Storage(s3_server.config(base))
    storage.put("of-somebody-else", b"x")
    found = run(f"s3://{s3_server.bucket}/{base}", "remove", home)
    prefix = found["uri"].removeprefix(f"s3://{s3_server.bucket}/")
    assert prefix.startswith(f"{base}/datashard-demo-")
    # All that a connection or a block needs in a process without the user's settings.
    assert found["fields"] == {
        "bucket": s3_server.bucket,
        "prefix": prefix,
        "endpoint": s3_server.endpoint,
        "region": "eu-west-1",
        "access_key": s3_server.access_key,
        "secret_key": s3_server.secret_key,
    }
    assert found["pyiceberg"]["s3.endpoint"] == s3_server.endpoint
    assert s3_server.secret_key not in found["look"]
    assert [one.key for one in storage.list("")] == ["of-somebody-else"]
    kept = run(f"s3://{s3_server.bucket}/{base}/", "keep", home)
    (folder,) = storage.folders()
    assert kept["uri"].endswith(folder)
    assert any(one.key.endswith(".parquet") for one in storage.list(folder))


def test_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "warehouse"
    home = tmp_path / "home"
    run(f"file://{folder}", "remove", home)
    run(folder, "fail early", home, code=1)
    assert not folder.parent.exists()  # it was not there before
    folder.mkdir(parents=True)
    kept = run(folder, "keep", home)
    (made,) = folder.iterdir()
    assert kept["fields"] == {"folder": str(made)}
    assert kept["pyiceberg"] == {}
