"""What Airflow reads of a provider: its name, its connection type and the fields of that."""

from __future__ import annotations

from typing import Any


def _text(label: str, description: str, *, secret: bool = False) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": ["string", "null"]}
    if secret:
        schema["format"] = "password"
    return {"label": label, "description": description, "schema": schema}


def _choice(label: str, description: str, *values: str) -> dict[str, Any]:
    return {"label": label, "description": description, "schema": {"type": ["string", "null"], "enum": [*values, None]}}


CONN_FIELDS: dict[str, dict[str, Any]] = {
    "bucket": _text("Bucket", "Name of the bucket. Leave it empty for a local folder."),
    "prefix": _text("Prefix", "Folder within the bucket that the tables are in."),
    "region": _text("Region", "Region of the bucket; found out by itself on AWS."),
    "endpoint": _text("Endpoint", "URL of an S3-compatible store, such as http://minio:9000. Empty for AWS."),
    "access_key": _text("Access key", "Access key id. The connection's login does as well."),
    "secret_key": _text("Secret key", "Secret access key. The connection's password does as well.", secret=True),
    "session_token": _text("Session token", "Token of temporary keys.", secret=True),
    "aws_conn_id": _text("AWS connection", "Id of an Amazon Web Services connection that has the credentials."),
    "auth": _choice("Auth", "instance_role: AWS's default chain on the worker (IAM role).", "instance_role"),
    "addressing_style": _choice("Addressing style", "How the bucket is named in requests.", "auto", "path", "virtual"),
    "verify": _text("Verify TLS", "true, false, or the path of a CA bundle."),
    "local_folder": _text("Local folder", "Folder on local disk, instead of a bucket."),
    "deployment": _text("Deployment", "Name of this Airflow in append ids, where several share a table."),
}

UI_FIELD_BEHAVIOUR: dict[str, Any] = {
    "hidden-fields": ["host", "schema", "port", "login", "password", "extra"],
    "relabeling": {},
    "placeholders": {"bucket": "my-datashard-bucket", "prefix": "warehouse", "endpoint": "https://s3.example.com"},
}


def get_provider_info() -> dict[str, Any]:
    """Describe the provider to Airflow."""
    return {
        "package-name": "airflow-provider-datashard",
        "name": "DataShard",
        "description": "ACID tables in a bucket, in Apache Iceberg's format, with no catalog.",
        "integrations": [
            {
                "integration-name": "DataShard",
                "external-doc-url": "https://iceberg.apache.org/spec/",
                "tags": ["software"],
            }
        ],
        "hooks": [
            {
                "integration-name": "DataShard",
                "python-modules": ["airflow_provider_datashard.hooks.datashard"],
            }
        ],
        "operators": [
            {
                "integration-name": "DataShard",
                "python-modules": ["airflow_provider_datashard.operators.datashard"],
            }
        ],
        "connection-types": [
            {
                "hook-class-name": "airflow_provider_datashard.hooks.datashard.DataShardHook",
                "connection-type": "datashard",
                "hook-name": "DataShard",
                "conn-fields": CONN_FIELDS,
                "ui-field-behaviour": UI_FIELD_BEHAVIOUR,
            }
        ],
    }
