"""What Airflow reads of this provider when it starts; nothing but literals and the list of fields."""

from __future__ import annotations

from typing import Any

from airflow_provider_datashard import __version__
from airflow_provider_datashard.fields import CONN_TYPE, FIELDS, HIDDEN_FIELDS, HOOK_CLASS, HOOK_NAME, PLACEHOLDERS


def get_provider_info() -> dict[str, Any]:
    """The provider's description (entry point ``apache_airflow_provider``)."""
    return {
        "package-name": "airflow-provider-datashard",
        "name": HOOK_NAME,
        "description": "ACID tables on S3-compatible stores and local disk, in Apache Iceberg's format.",
        "versions": [__version__],
        "connection-types": [
            {
                "connection-type": CONN_TYPE,
                "hook-class-name": HOOK_CLASS,
                "hook-name": HOOK_NAME,
                "conn-fields": {field.name: field.as_conn_field() for field in FIELDS},
                "ui-field-behaviour": {
                    "hidden-fields": list(HIDDEN_FIELDS),
                    "relabeling": {},
                    "placeholders": dict(PLACEHOLDERS),
                },
            }
        ],
        "integrations": [{"integration-name": HOOK_NAME, "tags": ["service"]}],
        "hooks": [{"integration-name": HOOK_NAME, "python-modules": ["airflow_provider_datashard.hooks.datashard"]}],
        "operators": [
            {"integration-name": HOOK_NAME, "python-modules": ["airflow_provider_datashard.operators.datashard"]}
        ],
    }
