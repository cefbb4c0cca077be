"""What lies elsewhere in another release of Airflow, from the one place that knows all releases.

The common.compat provider finds these in ``airflow.sdk`` (Airflow 3) or where Airflow 2 had them. Every
module of this provider takes them from here, so that a split of our own would have one place too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSkipException,
    Asset,
    BaseHook,
    BaseOperator,
    get_current_context,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection, Context

__all__ = [
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSkipException",
    "Asset",
    "BaseHook",
    "BaseOperator",
    "Connection",
    "Context",
    "get_current_context",
]
