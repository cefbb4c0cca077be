"""The fields of a connection of the type ``datashard``: one table for forms, documentation and parser."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

CONN_TYPE = "datashard"
HOOK_NAME = "DataShard"
HOOK_CLASS = "airflow_provider_datashard.hooks.datashard.DataShardHook"
INSTANCE_ROLE = "instance_role"


@dataclass(frozen=True, slots=True)
class ConnField:
    """One field of the connection.

    Attributes:
        name: its key in the connection's extra.
        label: how forms call it.
        description: what it means, in one or two sentences.
        secret: whether forms hide what is typed.
        choices: the values that it may have; empty if any.
    """

    name: str
    label: str
    description: str
    secret: bool = False
    choices: tuple[str, ...] = ()

    def as_conn_field(self) -> dict[str, Any]:
        """The field as provider information declares it (``connection-types[].conn-fields``)."""
        schema: dict[str, Any] = {"type": ["string", "null"]}
        if self.secret:
            schema["format"] = "password"
        if self.choices:
            schema["enum"] = list(self.choices)  # not null: the form would show that word as the choice
        return {"label": self.label, "description": self.description, "schema": schema}


FIELDS = (
    ConnField("bucket", "Bucket", "Name of the bucket that holds the tables."),
    ConnField("prefix", "Prefix", "Folder of the tables within the bucket; empty: the whole bucket."),
    ConnField("endpoint", "Endpoint", "URL of the store, such as http://minio:9000; empty: AWS."),
    ConnField("region", "Region", "Region of the bucket; empty: found out on AWS, us-east-1 elsewhere."),
    ConnField("access_key", "Access key", "Access key id. Goes with the secret key."),
    ConnField("secret_key", "Secret key", "Secret access key.", secret=True),
    ConnField("session_token", "Session token", "Token of temporary credentials.", secret=True),
    ConnField(
        "aws_conn_id",
        "AWS connection",
        "Id of an Airflow connection of the type aws to take credentials from, instead of keys. Region, endpoint and "
        "certificates are taken from it as well, where they are empty here.",
    ),
    ConnField(
        "auth",
        "Credentials of the machine",
        "instance_role: whatever AWS's default chain finds where the task runs (instance, pod or container role).",
        choices=(INSTANCE_ROLE,),
    ),
    ConnField(
        "addressing_style",
        "Addressing style",
        "path (endpoint/bucket) or virtual (bucket.endpoint); auto: path with an endpoint, virtual on AWS.",
        choices=("auto", "path", "virtual"),
    ),
    ConnField(
        "verify_tls",
        "Check certificates",
        "true, false, or the path of a CA bundle on the workers; empty: true.",
    ),
    ConnField(
        "sse",
        "Encryption",
        "Server-side encryption asked for with every object; empty: the bucket's default.",
        choices=("AES256", "aws:kms"),
    ),
    ConnField("sse_kms_key_id", "KMS key", "Id of the key for aws:kms; empty: the account's default."),
    ConnField("folder", "Local folder", "Absolute path of a folder that holds the tables, instead of a bucket."),
    ConnField(
        "deployment",
        "Deployment",
        "Name of this Airflow in append ids. Needed where two Airflows append to one table.",
    ),
)

NAMES = tuple(field.name for field in FIELDS)

# Every setting has its own field above; these of every connection would be second homes.
HIDDEN_FIELDS = ("host", "schema", "login", "password", "port", "extra")

PLACEHOLDERS = {
    "bucket": "my-bucket",
    "prefix": "warehouse",
    "endpoint": "http://minio:9000",
    "region": "eu-central-1",
    "folder": "/srv/warehouse",
}


def form_widgets() -> dict[str, Any]:
    """The fields as widgets, for releases of Airflow before 3.2, whose forms know no others."""
    # By name: the packages of these forms are there in old releases only, and have no types.
    fab = import_module("flask_appbuilder.fieldwidgets")
    wtforms = import_module("wtforms")
    checks = import_module("wtforms.validators")
    label = import_module("flask_babel").lazy_gettext
    widgets: dict[str, Any] = {}
    for field in FIELDS:
        kind = wtforms.PasswordField if field.secret else wtforms.StringField
        widget = fab.BS3PasswordFieldWidget if field.secret else fab.BS3TextFieldWidget
        validators = [checks.Optional(), *([checks.any_of(list(field.choices))] if field.choices else [])]
        widgets[field.name] = kind(
            label(field.label), widget=widget(), validators=validators, description=field.description
        )
    return widgets
