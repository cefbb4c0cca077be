"""How the block looks in Prefect's form, and whether what was filled in makes sense."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, cast

from prefect.blocks.core import Block
from pydantic import SecretStr

from prefect_datashard.credentials import secrets_of

if TYPE_CHECKING:
    from prefect_datashard.blocks import DataShardBlock

_METADATA = ("block_type_slug", "_block_document_id", "_block_document_name", "_is_anonymous")
SECRETS = ("access_key", "secret_key", "session_token")
WITH_SECRETS = (*SECRETS, "credentials")
"""Fields that are never pickled."""

_S3_ONLY = (
    *("bucket", "prefix", "endpoint", "region", *SECRETS, "credentials", "use_instance_role"),
    *("sse", "sse_kms_key_id"),
)
_MASKED = (
    "{field} holds a mask ({mask}) and not a secret. Prefect masks secrets where a block is made into parameters or "
    "printed: pass the block's name, and load it where it is used with DataShardBlock.load(name)."
)

_add_prefects_own = cast(Callable[[dict[str, Any], type[Block]], None], Block.model_config["json_schema_extra"])


def for_forms(schema: dict[str, Any], model: type[Block]) -> None:
    """What Prefect adds to the schema of a block, and optional fields as what they are when they are filled in.

    Prefect's form shows a choice between text and null for each field that may be either; an empty field says as much.
    """
    _add_prefects_own(schema, model)
    for shown in schema["properties"].values():
        kinds = [kind for kind in shown.get("anyOf", ()) if kind != {"type": "null"}]
        if len(kinds) == 1 and len(shown["anyOf"]) == 2:
            del shown["anyOf"], shown["default"]
            shown.update(kinds[0])


def without_metadata(values: Any, slug: str) -> Any:
    """What was filled in, of a saved or serialised block or of a form.

    The former carry Prefect's own keys; forms send empty text and ``{}`` for no value.

    Args:
        values: the keys and values, if it is a mapping.
        slug: the block type that they have to be of, where they say.

    Raises:
        ValueError: they are of another block type.
    """
    if not isinstance(values, Mapping):
        return values
    given = values.get("block_type_slug")
    if given not in (None, "", slug):
        raise ValueError(f"this is a block of the type {given!r}, not {slug!r}")
    return {
        key: None if (isinstance(value, str) and not value.strip()) or value == {} else value
        for key, value in values.items()
        if key not in _METADATA
    }


def secret_of(value: SecretStr | None) -> SecretStr | None:
    """A secret; None where it is empty.

    Raises:
        ValueError: it is a mask.
    """
    if value is None or not value.get_secret_value().strip():
        return None
    if _is_mask(value.get_secret_value()):
        raise ValueError(_MASKED.format(field="this field", mask=value.get_secret_value()))
    return value


def check_folder(block: DataShardBlock) -> None:
    """Whether a block of a local folder says nothing of a bucket, and where the folder is for every worker.

    Raises:
        ValueError: with what to change.
    """
    given = [name for name in _S3_ONLY if getattr(block, name)]
    if given:
        raise ValueError(f"folder and {given[0]} are filled in: tables are in a folder or in a bucket")
    if not PurePath(block.folder or "").is_absolute():
        raise ValueError(f"folder={block.folder!r} is not an absolute path, so each worker would find another one")


def check_sources(block: DataShardBlock) -> None:
    """Whether a block of a bucket names one source of credentials, whole.

    Raises:
        ValueError: with what to change.
    """
    for one, other in (("access_key", "secret_key"), ("secret_key", "access_key"), ("session_token", "access_key")):
        if getattr(block, one) is not None and getattr(block, other) is None:
            raise ValueError(f"{one} is filled in and {other} is not: keys come in pairs")
    sources = [name for name in ("access_key", "credentials", "use_instance_role") if getattr(block, name)]
    if not sources:
        raise ValueError(
            f"no credentials for the bucket {block.bucket}. Fill in access_key and secret_key, or nest an "
            "AwsCredentials or MinIOCredentials block as credentials, or set use_instance_role. Variables of the "
            "worker are not looked at."
        )
    if len(sources) > 1:
        raise ValueError(f"{' and '.join(sources)} are filled in: credentials come from one of them")
    for secret in secrets_of(block.credentials):
        if _is_mask(secret):
            raise ValueError(_MASKED.format(field="the nested credentials block", mask=secret))


def _is_mask(text: str) -> bool:
    """Prefect's server masks with eight asterisks, pydantic with ten."""
    return len(text) >= 4 and set(text) == {"*"}


def holds_secrets(block: DataShardBlock) -> bool:
    """Whether a block, or the one nested in it, holds secrets by value."""
    return any(getattr(block, name) is not None for name in WITH_SECRETS)


def load_again(kind: type[DataShardBlock], name: str, fields: Mapping[str, Any]) -> DataShardBlock:
    """A saved block, with the fields that it had when it was pickled.

    Args:
        kind: its class.
        name: the name under which it is saved.
        fields: all but those with secrets.
    """
    loaded = cast("DataShardBlock", kind.load(name, _sync=True))  # type: ignore[call-arg]
    return loaded.model_copy(update=dict(fields))
