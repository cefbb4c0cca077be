"""The block by itself: its fields, its round trips, and that it knows its credentials from nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from datashard_testkit.s3_server import S3Server
from prefect import flow
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.exceptions import ParameterTypeError
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from prefect_aws import AwsCredentials, MinIOCredentials
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import ValidationError

import prefect_datashard
from datashard_core import InvalidRecordsError, LocalConfig, NoSuchTableError, S3Config, Schema, TableExistsError
from datashard_core.errors import ConfigurationError, StorageError
from prefect_datashard import DataShardBlock
from prefect_datashard.credentials import SessionCredentials

FIELDS = [{"id": 1, "name": "n", "type": "long"}]


class TestBlockStandards(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return DataShardBlock

    def test_has_a_documentation_url(self, block: type[Block]) -> None:
        """The documentation is in the package: there is no page to point to yet."""
        assert block._documentation_url is None
        assert "retried appends nothing twice" in (block.__doc__ or "")

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """A logo has to come over http; without one Prefect shows its own."""
        assert block._logo_url is None


# -- fields -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prefix", "meant"), [("a/../c", "c"), ("./a", "a"), ("a/b/..", "a")])
def test_a_prefix_with_dots_is_refused_with_the_one_that_is_meant(prefix: str, meant: str) -> None:
    with pytest.raises(ValidationError, match=f"write prefix='{meant}'"):
        DataShardBlock(bucket="tables", prefix=prefix, access_key="a", secret_key="s")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "neither a bucket nor a folder"),
        ({"bucket": "logs"}, "no credentials for the bucket logs"),
        ({"bucket": "logs", "access_key": "k"}, "secret_key is not: keys come in pairs"),
        ({"bucket": "logs", "secret_key": "s"}, "access_key is not: keys come in pairs"),
        ({"bucket": "logs", "use_instance_role": True, "session_token": "t"}, "keys come in pairs"),
        (
            {"bucket": "logs", "use_instance_role": True, "access_key": "k", "secret_key": "s"},
            "access_key and use_instance_role are filled in",
        ),
        (
            {
                "bucket": "logs",
                "credentials": MinIOCredentials(minio_root_user="u", minio_root_password="p"),
                "use_instance_role": True,
            },
            "credentials and use_instance_role are filled in",
        ),
        ({"bucket": "logs", "credentials": AwsCredentials()}, "boto|no aws_access_key_id"),
        ({"folder": "here"}, "not an absolute path"),
        ({"folder": "/srv/tables", "bucket": "logs"}, "folder and bucket are filled in"),
        ({"folder": "/srv/tables", "use_instance_role": True}, "folder and use_instance_role"),
        ({"bucket": "Not A Bucket", "use_instance_role": True}, "cannot be the name of a bucket"),
        ({"bucket": "logs", "use_instance_role": True, "endpoint": "minio:9000"}, "is not a URL"),
        ({"bucket": "logs", "use_instance_role": True, "regoin": "x"}, "regoin"),
    ],
)
def test_what_contradicts_itself_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DataShardBlock(**fields)


@pytest.mark.parametrize("mask", ["**********", "********"])
@pytest.mark.parametrize("field", ["access_key", "secret_key", "session_token"])
def test_masked_secrets_are_refused_with_the_way_out(field: str, mask: str) -> None:
    fields = {"bucket": "logs", "access_key": "k", "secret_key": "s", "session_token": "t", field: mask}
    with pytest.raises(ValidationError, match="pass the block's name"):
        DataShardBlock(**fields)


def test_masked_nested_secrets_are_refused() -> None:
    with pytest.raises(ValidationError, match="pass the block's name"):
        DataShardBlock(bucket="logs", credentials=MinIOCredentials(minio_root_user="u", minio_root_password="*" * 10))


def test_a_block_that_became_parameters_is_refused_and_its_reference_is_not(s3_fields: dict[str, Any]) -> None:
    """What run_deployment would send: the block as JSON, its secrets masked."""
    block = DataShardBlock(**s3_fields)

    @flow
    def takes_a_block(block: DataShardBlock) -> str:
        return str(block.bucket)

    with pytest.raises(ParameterTypeError, match="pass the block's name"):
        takes_a_block(block.model_dump(mode="json"))
    assert takes_a_block(block) == s3_fields["bucket"]


def test_errors_and_representations_show_no_secret() -> None:
    fields = {"bucket": "logs", "access_key": "key-id-1", "secret_key": "very-secret", "session_token": "token-1"}
    shown = repr(DataShardBlock(**fields)) + str(DataShardBlock(**fields)) + repr(DataShardBlock(**fields).get_config())
    with pytest.raises(ValidationError) as caught:
        DataShardBlock(**fields, typo=1)
    for text in (shown, str(caught.value), repr(caught.value)):
        assert "very-secret" not in text
        assert "token-1" not in text


def test_the_configuration_says_what_the_fields_say(s3_fields: dict[str, Any]) -> None:
    block = DataShardBlock(
        **s3_fields,
        session_token="t",
        addressing_style="virtual",
        verify_tls="/ca.pem",
        sse="aws:kms",
        sse_kms_key_id="k",
    )
    config = block.get_config()
    assert isinstance(config, S3Config)
    assert {name: getattr(config, name) for name in s3_fields} == s3_fields
    assert (config.session_token, config.addressing_style, config.verify_tls) == ("t", "virtual", "/ca.pem")
    assert (config.sse, config.sse_kms_key_id, config.use_default_chain) == ("aws:kms", "k", False)
    assert DataShardBlock(folder="/srv/tables").get_config() == LocalConfig("/srv/tables")
    role = DataShardBlock(bucket="logs", use_instance_role=True).get_config()
    assert isinstance(role, S3Config) and role.use_default_chain


def test_empty_text_is_no_value() -> None:
    """Forms send it for a field that was not filled in."""
    block = DataShardBlock(folder="/srv/tables", bucket="", prefix=" ", access_key="", deployment="")
    assert (block.bucket, block.prefix, block.access_key, block.deployment) == (None, None, None, None)


def test_the_endpoint_of_nested_credentials_is_used_and_the_block_s_own_wins() -> None:
    nested = MinIOCredentials(
        minio_root_user="u",
        minio_root_password="p",
        region_name="eu-west-1",
        aws_client_parameters=AwsClientParameters(
            endpoint_url="http://minio:9000", verify=False, config={"s3": {"addressing_style": "virtual"}}
        ),
    )
    config = DataShardBlock(bucket="logs", credentials=nested).get_config()
    assert isinstance(config, S3Config)
    assert (config.endpoint, config.region, config.access_key, config.secret_key) == (
        *("http://minio:9000", "eu-west-1"),
        *("u", "p"),
    )
    assert (config.verify_tls, config.addressing_style) == (False, "virtual")
    own = DataShardBlock(bucket="logs", credentials=nested, endpoint="http://other:9000", region="x").get_config()
    assert isinstance(own, S3Config) and (own.endpoint, own.region) == ("http://other:9000", "x")


# -- round trips --------------------------------------------------------------------------------------


def test_saved_and_loaded_again(s3_fields: dict[str, Any]) -> None:
    block = DataShardBlock(**s3_fields, deployment="north")
    block.save("saved", overwrite=True)
    loaded = DataShardBlock.load("saved")
    assert loaded.get_config() == block.get_config()
    assert loaded.deployment == "north"
    by_slug = Block.load("datashard/saved")
    assert isinstance(by_slug, DataShardBlock) and by_slug.get_config() == block.get_config()


def test_secrets_are_masked_in_the_api(s3_fields: dict[str, Any], s3_server: S3Server) -> None:
    nested = MinIOCredentials(minio_root_user="u", minio_root_password="nested-secret")
    DataShardBlock(**s3_fields).save("masked", overwrite=True)
    DataShardBlock(bucket="logs", credentials=nested).save("masked-nested", overwrite=True)
    with get_client(sync_client=True) as client:
        shown = [
            client.read_block_document_by_name(name, "datashard", include_secrets=False).model_dump_json()
            for name in ("masked", "masked-nested")
        ]
    assert s3_server.secret_key not in "".join(shown)
    assert s3_server.access_key not in "".join(shown)
    assert "nested-secret" not in "".join(shown)
    loaded = DataShardBlock.load("masked-nested").get_config()
    assert isinstance(loaded, S3Config) and loaded.secret_key == "nested-secret"


@pytest.mark.parametrize("reference", [False, True])
def test_nested_credentials_survive_saving(s3_server: S3Server, reference: bool) -> None:
    nested = AwsCredentials(
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(endpoint_url=s3_server.endpoint),
    )
    if reference:
        nested.save("nested-aws", overwrite=True)
        nested = AwsCredentials.load("nested-aws")
    DataShardBlock(bucket=s3_server.bucket, credentials=nested).save("nested", overwrite=True)
    loaded = DataShardBlock.load("nested")
    assert isinstance(loaded.credentials, AwsCredentials)
    assert loaded.get_config() == s3_server.config()


def test_the_schema_names_the_nested_blocks() -> None:
    """The user interface offers saved blocks for them."""
    schema = DataShardBlock.model_json_schema()
    slugs = {reference["block_type_slug"] for reference in schema["block_schema_references"]["credentials"]}
    assert slugs == {"aws-credentials", "minio-credentials"}
    assert {"access_key", "secret_key", "session_token", "credentials.aws_secret_access_key"} <= set(
        schema["secret_fields"]
    )


def test_what_a_form_leaves_empty_counts_as_nothing() -> None:
    sent = {"bucket": "tables", "prefix": "", "access_key": "a", "secret_key": "s", "credentials": {}, "folder": " "}
    block = DataShardBlock(**sent)
    assert (block.prefix, block.credentials, block.folder) == (None, None, None)
    assert block.get_config() == S3Config("tables", access_key="a", secret_key="s")


def test_forms_ask_for_text_where_a_field_may_stay_empty() -> None:
    properties = DataShardBlock.model_json_schema()["properties"]
    assert {name for name, shown in properties.items() if "anyOf" in shown} == {"credentials", "verify_tls"}
    assert properties["bucket"]["type"] == properties["folder"]["type"] == "string"
    assert (properties["secret_key"]["format"], properties["secret_key"]["writeOnly"]) == ("password", True)
    assert properties["sse"]["enum"] == ["AES256", "aws:kms"]
    assert "required" not in DataShardBlock.model_json_schema()


def test_the_type_is_registered_with_its_nested_types(in_another_process: Callable[..., str]) -> None:
    """Before any block was made, as ``prefect block register`` does it."""
    code = (
        "from prefect_datashard import DataShardBlock\n"
        "DataShardBlock.register_type_and_schema()\n"
        "print(DataShardBlock._block_type_id, DataShardBlock._block_schema_id)\n"
    )
    assert "None" not in in_another_process(code)


def test_it_is_copied_to_other_processes(block: DataShardBlock, in_another_process: Callable[..., str]) -> None:
    block.append("events", [{"n": 1}])
    block.load_table("events")
    sent = cloudpickle.dumps(block)
    assert cloudpickle.loads(sent) == block
    code = (
        "import sys, cloudpickle\n"
        "block = cloudpickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "print(block.append('events', [{'n': 2}]).rows, block.load_table('events').count())\n"
    )
    assert in_another_process(code, sent.hex()).split() == ["1", "2"]


def test_blocks_that_say_the_same_share_a_warehouse(block: DataShardBlock, tmp_path: Path) -> None:
    assert DataShardBlock(folder=block.folder).get_warehouse() is block.get_warehouse()
    assert DataShardBlock(folder=str(tmp_path / "other")).get_warehouse() is not block.get_warehouse()


# -- credentials --------------------------------------------------------------------------------------


def _use(block: DataShardBlock) -> list[int]:
    """Small objects go through boto3, the Parquet file through Arrow."""
    block.append("events", [{"n": 1}, {"n": 2}], schema=FIELDS, create_if_missing=True)
    return block.scan("events").to_arrow()["n"].to_pylist()  # type: ignore[no-any-return]


@pytest.mark.usefixtures("wrong_variables")
def test_keys_come_from_the_block_alone(s3_fields: dict[str, Any]) -> None:
    assert _use(DataShardBlock(**s3_fields)) == [1, 2]


@pytest.mark.usefixtures("wrong_variables")
def test_a_wrong_key_in_the_block_is_refused_by_the_store(s3_fields: dict[str, Any]) -> None:
    """So the tests beside this one would notice keys from somewhere else."""
    with pytest.raises(StorageError):
        _use(DataShardBlock(**{**s3_fields, "access_key": "another-key"}))


@pytest.mark.usefixtures("wrong_variables")
@pytest.mark.parametrize("kind", ["aws", "minio"])
def test_nested_credentials_are_used_and_nothing_else(
    s3_server: S3Server, s3_fields: dict[str, Any], kind: str
) -> None:
    parameters = AwsClientParameters(endpoint_url=s3_server.endpoint)
    nested: AwsCredentials | MinIOCredentials
    if kind == "aws":
        nested = AwsCredentials(
            aws_access_key_id=s3_server.access_key,
            aws_secret_access_key=s3_server.secret_key,
            aws_client_parameters=parameters,
        )
    else:
        nested = MinIOCredentials(
            minio_root_user=s3_server.access_key,
            minio_root_password=s3_server.secret_key,
            aws_client_parameters=parameters,
        )
    assert _use(DataShardBlock(bucket=s3_server.bucket, prefix=s3_fields["prefix"], credentials=nested)) == [1, 2]


@pytest.mark.usefixtures("wrong_variables")
def test_a_profile_of_nested_credentials(
    s3_server: S3Server, s3_fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked through the block's boto3 session, where keys in variables would come first without a profile."""
    (tmp_path / "credentials").write_text(
        f"[team]\naws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    nested = AwsCredentials(profile_name="team")
    fields = {name: s3_fields[name] for name in ("bucket", "prefix", "endpoint")}
    assert _use(DataShardBlock(**fields, credentials=nested)) == [1, 2]


def test_an_assumed_role_is_assumed_again_in_time(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", s3_server.endpoint)
    role = AwsCredentials(
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
        region_name="us-east-1",
        assume_role_arn="arn:aws:iam::123456789012:role/appender",
    )
    provider = DataShardBlock(bucket="logs", credentials=role).get_config().credentials_provider
    assert provider == SessionCredentials(role) and hash(provider) == hash(SessionCredentials(role))
    first = provider()
    assert first.session_token and first.access_key != s3_server.access_key
    assert provider() == first
    monkeypatch.setattr("prefect_datashard.credentials.RENEW_SECONDS", 0.0)
    assert provider() != first


def test_loaded_by_name_in_another_process(
    s3_server: S3Server, s3_fields: dict[str, Any], in_another_process: Callable[..., str], wrong: dict[str, str]
) -> None:
    """A worker whose variables are all wrong, and which never saw the blocks being made."""
    nested = AwsCredentials(
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
        aws_client_parameters=AwsClientParameters(endpoint_url=s3_server.endpoint),
    )
    DataShardBlock(**s3_fields).save("elsewhere", overwrite=True)
    DataShardBlock(bucket=s3_server.bucket, prefix=s3_fields["prefix"], credentials=nested).save(
        "elsewhere-nested", overwrite=True
    )
    code = (
        "from prefect.blocks.core import Block\n"
        "schema = [{'id': 1, 'name': 'n', 'type': 'long'}]\n"
        "for name in ('elsewhere', 'elsewhere-nested'):\n"
        "    block = Block.load(f'datashard/{name}')\n"
        "    block.append('events', [{'n': 1}], schema=schema, create_if_missing=True)\n"
        "    print(block.scan('events').to_arrow()['n'].to_pylist())\n"
    )
    assert in_another_process(code, environment=wrong).splitlines() == ["[1]", "[1, 1]"]


# -- tables -------------------------------------------------------------------------------------------


def test_tables_are_created_read_and_queried(block: DataShardBlock) -> None:
    table = block.create_table("shop.orders", [{"id": 1, "name": "total", "type": "double"}])
    assert table.name == "shop.orders"
    block.append("shop.orders", [{"total": 1.5}, {"total": 2.5}])
    assert block.scan("shop.orders", columns=["total"], where="total > 2").to_records() == [{"total": 2.5}]
    assert block.sql("select sum(total) as t from shop.orders").to_pylist() == [{"t": 4.0}]
    first = block.load_table("shop.orders").snapshots()[0]
    assert block.scan("shop.orders", snapshot_id=first.snapshot_id).count() == 2
    assert block.get_warehouse().list_tables() == ["events", "shop.orders"]


def test_a_schema_is_checked_and_creates(block: DataShardBlock) -> None:
    import pyarrow as pa

    other = Schema(fields=[{"id": 1, "name": "n", "type": "string"}])
    with pytest.raises(InvalidRecordsError, match="not the table's"):
        block.append("events", [{"n": 1}], schema=other)
    with pytest.raises(TableExistsError, match="another schema"):
        block.append("events", [{"n": 1}], schema=other, create_if_missing=True)
    with pytest.raises(NoSuchTableError):
        block.append("new", [{"n": 1}], schema=FIELDS)
    with pytest.raises(ConfigurationError, match="needs schema="):
        block.append("new", [{"n": 1}], create_if_missing=True)
    with pytest.raises(ConfigurationError, match="a list of fields"):
        block.append("new", [{"n": 1}], schema={"n": "long"}, create_if_missing=True)  # type: ignore[arg-type]
    arrow = pa.table({"n": [1, 2]})
    assert block.append("new", arrow, schema=arrow.schema, create_if_missing=True).rows == 2


def test_outside_runs_each_call_is_an_append_of_its_own(block: DataShardBlock) -> None:
    results = [block.append("events", [{"n": 1}]) for _ in range(2)]
    results.append(asyncio.run(block.aappend("events", [{"n": 1}])))
    assert block.load_table("events").count() == 3
    assert len({result.append_id for result in results}) == 3
    assert not any(result.append_id.startswith("prefect:") for result in results)
    assert block.logger.name == "prefect.DataShardBlock"


def test_an_explicit_id_appends_once(block: DataShardBlock) -> None:
    first = block.append("events", [{"n": 1}], append_id="day-1")
    again = block.append("events", [{"n": 1}], append_id="day-1")
    assert (first.already_appended, again.already_appended) == (False, True)
    with pytest.raises(ConfigurationError, match="append_id"):
        block.append("events", [{"n": 1}], append_id="")
    assert block.load_table("events").count() == 1


def test_the_version_is_stated_once() -> None:
    from importlib.metadata import version

    assert prefect_datashard.__version__ == version("prefect-datashard")
