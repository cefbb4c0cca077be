"""What an import of the package brings in, and that it works without prefect-aws."""

from __future__ import annotations

import json
from collections.abc import Callable

HEAVY = ("boto3", "botocore", "pyarrow", "duckdb", "pandas", "polars", "fastavro", "numpy", "prefect_aws")

WITHOUT_PREFECT_AWS = """
import sys
sys.modules["prefect_aws"] = None
from prefect_datashard import DataShardBlock
made = DataShardBlock(folder="/srv/tables")
schema = DataShardBlock.model_json_schema()
assert schema["block_schema_references"] == {}, schema["block_schema_references"]
assert "secret_key" in schema["secret_fields"]
DataShardBlock(bucket="logs", access_key="k", secret_key="s").save("plain", overwrite=True)
assert DataShardBlock.load("plain").get_config().access_key == "k"
try:
    DataShardBlock(bucket="logs", credentials={"block_type_slug": "aws-credentials"})
except ValueError as error:
    print(error)
"""


def test_the_import_brings_in_nothing_heavy(in_another_process: Callable[..., str]) -> None:
    """Beyond what Prefect itself needs."""
    code = (
        "import json, sys, prefect, prefect.blocks.core, prefect.context, prefect.transactions\n"
        "before = set(sys.modules)\n"
        "import prefect_datashard\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))\n"
    )
    brought = json.loads(in_another_process(code))
    assert "prefect_datashard" in brought
    assert not set(brought) & set(HEAVY)


def test_it_works_without_prefect_aws_and_says_what_to_install(in_another_process: Callable[..., str]) -> None:
    assert "pip install 'prefect-datashard[aws]'" in in_another_process(WITHOUT_PREFECT_AWS)
