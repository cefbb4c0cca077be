"""The block: where tables are, with which credentials, and how a flow appends to them and reads them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal, SupportsIndex

from prefect.blocks.core import Block
from prefect.exceptions import MissingContextError
from prefect.logging.loggers import get_logger, get_run_logger
from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from datashard_core import LocalConfig, S3Config
from datashard_core.errors import ConfigurationError, InvalidRecordsError
from prefect_datashard.append_ids import append_id_maker
from prefect_datashard.credentials import credentials_types, s3_settings
from prefect_datashard.form import (
    SECRETS,
    WITH_SECRETS,
    check_folder,
    check_sources,
    for_forms,
    holds_secrets,
    load_again,
    secret_of,
    without_metadata,
)
from prefect_datashard.schema import to_schema
from prefect_datashard.warehouses import shared_warehouse

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    from prefect_aws import AwsCredentials, MinIOCredentials

    from datashard_core import AppendResult, Scan, Table, Warehouse
    from prefect_datashard.schema import SchemaLike

Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]


class DataShardBlock(Block):
    """Tables in a bucket or a local folder, to which flows append and which they read.

    Credentials come from this block alone: two keys, a nested AwsCredentials or MinIOCredentials block, or
    the role of the machine. No variable of the worker is looked at, but with ``use_instance_role``.

    Appends know the run that they are made in: a task or flow that is retried appends nothing twice
    (``prefect_datashard.append_ids`` says how, and what it cannot see).

    Example:
        Append in a task:
        ```python
        from prefect import flow, task
        from prefect_datashard import DataShardBlock

        @task(retries=2)
        def load(rows):
            block = DataShardBlock.load("BLOCK_NAME")
            return block.append("events", rows)

        @flow
        def etl():
            load([{"user_id": 1, "event": "login"}])
        ```
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,  # it would show the secrets
        json_schema_extra=for_forms,
    )
    _block_type_name = "DataShard"
    _block_type_slug = "datashard"
    _description = "Tables in a bucket or a local folder, to which flows append and which they read."

    bucket: str | None = Field(default=None, description="Name of the bucket that holds the tables.")
    prefix: str | None = Field(
        default=None, description="Folder of the tables within the bucket; empty for the whole bucket."
    )
    endpoint: str | None = Field(
        default=None,
        title="Endpoint URL",
        description="URL of the store, such as http://minio:9000; empty for that of the nested credentials, or AWS.",
    )
    region: str | None = Field(
        default=None, description="Region of the bucket; empty for that of the nested credentials, or found out."
    )
    access_key: SecretStr | None = Field(default=None, description="Access key id, with its secret key.")
    secret_key: SecretStr | None = Field(default=None, description="Secret access key.")
    session_token: SecretStr | None = Field(default=None, description="Token of temporary credentials.")
    credentials: AwsCredentials | MinIOCredentials | None = Field(
        default=None,
        description="AwsCredentials or MinIOCredentials block to take credentials and endpoint from, instead of keys.",
    )
    use_instance_role: bool = Field(
        default=False,
        description="Use the role of the machine: what AWS's default chain finds where the flow runs.",
    )
    addressing_style: Literal["auto", "path", "virtual"] = Field(
        default="auto",
        description="Whether the bucket goes into the path or the host name; auto: path with an endpoint.",
    )
    verify_tls: bool | str = Field(
        default=True,
        title="Check Certificates",
        description="Whether to check certificates, or the path of a CA bundle to check them with.",
    )
    sse: Literal["AES256", "aws:kms"] | None = Field(
        default=None, title="Encryption", description="Server-side encryption; empty for the bucket's default."
    )
    sse_kms_key_id: str | None = Field(
        default=None, title="KMS Key", description="Id of the key for the encryption aws:kms."
    )
    folder: str | None = Field(
        default=None, description="Absolute path of a local folder that holds the tables, instead of a bucket."
    )
    deployment: str | None = Field(
        default=None,
        max_length=100,
        description="Name of this Prefect in append ids; needed where two of them append to one table.",
    )

    # -- what Prefect and pydantic ask of the class -------------------------------------------------

    @classmethod
    def __dispatch_key__(cls) -> str:
        """The slug, without the schema that the base class makes for it: that would import boto3."""
        return cls.get_block_type_slug()

    @classmethod
    def model_rebuild(
        cls,
        *,
        force: bool = False,
        raise_errors: bool = True,
        _parent_namespace_depth: int = 2,
        _types_namespace: Any = None,
    ) -> bool | None:
        """Find the types of the nested credentials when they are first needed."""
        if not cls.__pydantic_complete__:
            _types_namespace = {**(_types_namespace or {}), **credentials_types()}
        return super().model_rebuild(
            force=force,
            raise_errors=raise_errors,
            _parent_namespace_depth=_parent_namespace_depth + 1,
            _types_namespace=_types_namespace,
        )

    @classmethod
    async def aregister_type_and_schema(cls, *args: Any, **kwargs: Any) -> None:
        """Register the block type, and those of the nested blocks first."""
        cls.model_rebuild()
        await super().aregister_type_and_schema(*args, **kwargs)

    @classmethod
    def register_type_and_schema(cls, *args: Any, **kwargs: Any) -> Any:
        """Register the block type, and those of the nested blocks first."""
        cls.model_rebuild()
        return super().register_type_and_schema(*args, **kwargs)

    @model_validator(mode="before")
    @classmethod
    def _without_metadata(cls, values: Any) -> Any:
        """A saved or serialised block carries Prefect's own keys; forms send empty text and ``{}`` for no value."""
        return without_metadata(values, cls.get_block_type_slug())

    @field_validator(*SECRETS)
    @classmethod
    def _no_mask(cls, value: SecretStr | None) -> SecretStr | None:
        return secret_of(value)

    @model_validator(mode="after")
    def _check(self) -> DataShardBlock:
        if self.folder is not None:
            check_folder(self)
        elif self.bucket is None:
            raise ValueError("it names neither a bucket nor a folder: fill in one of them")
        else:
            check_sources(self)
            try:
                self.get_config()
            except ConfigurationError as error:
                raise ValueError(str(error)) from error
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """Pickle no secret: a result that is kept, or a parameter that is sent, lies in the clear.

        A saved block is pickled by its name, and loaded again where it is unpickled.

        Raises:
            TypeError: the block holds secrets and is not saved.
        """
        if not holds_secrets(self):
            return super().__reduce_ex__(protocol)
        name = self._block_document_name
        if name is None or self._is_anonymous:
            raise TypeError(
                f"a DataShard block that holds credentials (bucket {self.bucket}) is not pickled: they would lie in "
                "the clear in a kept result or a task's parameters. Save the block, and return or pass its name, to be "
                "loaded with DataShardBlock.load(name) where it is used."
            )
        plain = {field: getattr(self, field) for field in type(self).model_fields if field not in WITH_SECRETS}
        return load_again, (type(self), name, plain)

    # -- what flows use -----------------------------------------------------------------------------

    @property
    def logger(self) -> Logger:
        """The logger of the run, or of this block outside runs."""
        try:
            return get_run_logger()
        except MissingContextError:
            return get_logger(type(self).__name__)

    def get_config(self) -> S3Config | LocalConfig:
        """The configuration that the block describes. It holds the secrets: do not log or return it.

        Raises:
            ConfigurationError: a setting is not usable.
        """
        if self.folder is not None:
            return LocalConfig(self.folder)
        nested = s3_settings(self.credentials) if self.credentials is not None else {}
        own = {
            "prefix": self.prefix,
            "endpoint": self.endpoint,
            "region": self.region,
            **{name: secret.get_secret_value() for name in SECRETS if (secret := getattr(self, name)) is not None},
            "addressing_style": self.addressing_style if self.addressing_style != "auto" else None,
            "verify_tls": self.verify_tls if self.verify_tls is not True else None,
            "sse": self.sse,
            "sse_kms_key_id": self.sse_kms_key_id,
        }
        settings = {**nested, **{name: value for name, value in own.items() if value is not None}}
        return S3Config(bucket=self.bucket or "", use_default_chain=self.use_instance_role, **settings)

    def get_warehouse(self) -> Warehouse:
        """The warehouse; blocks of one process that say the same share one, and its connections.

        Tables that are taken from it know nothing of Prefect: appends through them get no id of the run.

        Example:
            >>> DataShardBlock.load("warehouse").get_warehouse().list_tables()
            ['flight_delays', 'workflow_log']
        """
        return shared_warehouse(self.get_config())

    def load_table(self, name: str, *, to_defer: bool = False) -> Table:
        """Open a table at its newest version.

        Args:
            name: ``[namespace.]table``.
            to_defer: for a process that only defers appends: see ``datashard_core.Warehouse.load_table``.

        Raises:
            NoSuchTableError: there is none of that name.
        """
        return self.get_warehouse().load_table(name, to_defer=to_defer)

    def create_table(
        self,
        name: str,
        schema: SchemaLike,
        *,
        if_exists: Literal["error", "open"] = "error",
        properties: Mapping[str, str] | None = None,
    ) -> Table:
        """Create a table.

        Args:
            name: ``[namespace.]table``.
            schema: a Schema, a list of fields, or an Arrow schema.
            if_exists: "error"; or "open" to get the table that is there, if its fields are the same.
            properties: Iceberg table properties.

        Raises:
            TableExistsError: the name is taken, or the table there has other fields.
        """
        return self.get_warehouse().create_table(name, to_schema(schema), if_exists=if_exists, properties=properties)

    def append(
        self,
        table: str,
        data: Any,
        *,
        append_id: str | None = None,
        schema: SchemaLike | None = None,
        create_if_missing: bool = False,
        base: int | None = None,
        timeout: float = 120.0,
        commit: Literal["now", "deferred"] = "now",
    ) -> AppendResult:
        """Append rows, once, however often the task or flow around it is retried.

        It blocks until the rows are in the table: in async code use :meth:`aappend`.

        Args:
            table: ``[namespace.]table``.
            data: a list of dictionaries, a pyarrow Table or record batches, or a pandas or Polars frame.
            append_id: an id that stays the same when the same work is tried again. By default, in a flow
                or task, made of the run, the task, the rows and their ordinal; outside, each call is an
                append of its own.
            schema: if given, the table has to have these fields.
            create_if_missing: create the table with ``schema`` if it is not there.
            base: only with the ``append_id`` that a ``CommitStateUnknownError`` carried: its ``base``.
            timeout: seconds after which it gives up.
            commit: "now"; or "deferred": durable when this returns, visible with the next commit.

        Raises:
            InvalidRecordsError: the rows do not fit; nothing was written.
            NoSuchTableError: there is no such table, and it was not to be created.
            AppendIdConflictError: ``append_id`` was used with other rows.
            CommitStateUnknownError: it may or may not be in the table; a retry of the task finds out.
            DataShardError: see ``datashard_core.Table.append``.

        Example:
            >>> DataShardBlock.load("warehouse").append("events", [{"user_id": 1}]).rows
            1
        """
        opened = self._open(table, schema, create_if_missing, to_defer=commit == "deferred")
        maker = None if append_id is not None else append_id_maker(opened.uri, self.deployment, self.logger)
        chosen = maker if append_id is None else append_id
        try:
            result = opened.append(data, append_id=chosen, base=base, timeout=timeout, commit=commit)
        except BaseException:
            if maker is not None:
                maker.failed()
            raise
        if result.already_appended:
            self.logger.info(
                "Nothing was appended: these rows are in %s since version %s, by an earlier try (append id %s)",
                opened.uri,
                result.version,
                result.append_id,
            )
        elif result.version is None:
            self.logger.info("Staged %d rows for %s: the next commit or flush shows them", result.rows, opened.uri)
        else:
            self.logger.info("Appended %d rows to %s, version %s", result.rows, opened.uri, result.version)
        return result

    async def aappend(
        self,
        table: str,
        data: Any,
        *,
        append_id: str | None = None,
        schema: SchemaLike | None = None,
        create_if_missing: bool = False,
        base: int | None = None,
        timeout: float = 120.0,
        commit: Literal["now", "deferred"] = "now",
    ) -> AppendResult:
        """Append rows without blocking the event loop: :meth:`append`, in a thread that knows the run.

        If it is cancelled, the thread goes on, and its rows may still get into the table, once; a retry
        of the task or flow finds them. Calling again in the same try would be one more append.

        Args and errors: as :meth:`append`.

        Example:
            >>> (await block.aappend("events", [{"user_id": 1}])).rows
            1
        """
        return await asyncio.to_thread(
            self.append,
            table,
            data,
            append_id=append_id,
            schema=schema,
            create_if_missing=create_if_missing,
            base=base,
            timeout=timeout,
            commit=commit,
        )

    def flush(self, table: str, timeout: float = 120.0) -> int:
        """Commit every deferred append to a table that is staged now, whoever staged it.

        Args:
            table: ``[namespace.]table``.
            timeout: seconds after which it gives up.

        Returns:
            The version that shows all of it.

        Raises:
            AppendRefusedError: some of it is refused, and never will be in the table; everything else is.
            DataShardError: see ``datashard_core.Table.flush``; what is staged stays staged.

        Example:
            >>> block.append("events", [{"user_id": 1}], commit="deferred").version is None
            True
            >>> block.flush("events")
            3
        """
        return self.load_table(table).flush(timeout).version

    def scan(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        where: str | pc.Expression | None = None,
        snapshot_id: int | None = None,
        as_of: datetime | None = None,
    ) -> Scan:
        """Read rows of the newest version, or of an earlier snapshot.

        Args:
            table: ``[namespace.]table``.
            columns: names of the columns wanted; None for all.
            where: a condition as SQL text (needs the extra ``sql``) or a ``pyarrow.compute`` expression.
            snapshot_id: read that snapshot.
            as_of: read what was current at that time.

        Returns:
            The scan: ``.to_arrow()``, ``.to_pandas()``, ``.to_records()`` or ``.to_batches()`` read it.

        Raises:
            ConfigurationError: an unknown column, condition, snapshot or time.
        """
        opened = self.load_table(table)
        return opened.scan(columns=columns, where=where, snapshot_id=snapshot_id, as_of=as_of)

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pa.Table:
        """Answer a SELECT over the tables that it names (needs the extra ``sql``).

        Example:
            >>> block.sql("select count(*) as n from workflow_log").to_pylist()
            [{'n': 14}]
        """
        return self.get_warehouse().sql(query, params)

    def _open(self, table: str, schema: SchemaLike | None, create_if_missing: bool, to_defer: bool) -> Table:
        if schema is None:
            if create_if_missing:
                raise ConfigurationError(
                    f"table {table}: create_if_missing=True needs schema=, to make the table of. Schema.from_arrow and "
                    "Schema.infer make one of data."
                )
            return self.load_table(table, to_defer=to_defer)
        wanted = to_schema(schema)
        if create_if_missing:
            return self.get_warehouse().create_table(table, wanted, if_exists="open")
        opened = self.load_table(table)
        if differences := opened.schema.differences(wanted):
            raise InvalidRecordsError(f"table {table}: schema= is not the table's: {'; '.join(differences)}")
        return opened
