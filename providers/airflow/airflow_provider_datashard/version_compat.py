"""What lies elsewhere in another release of Airflow; the only module that knows of releases.

Airflow 3 keeps what Dags and providers need in ``airflow.sdk``; Airflow 2 had it in places of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk import Asset, BaseHook, BaseOperator, Connection, Context, get_current_context
    from airflow.sdk.exceptions import (
        AirflowFailException,
        AirflowNotFoundException,
        AirflowSkipException,
    )
else:
    try:
        from airflow.sdk import Asset, BaseHook, BaseOperator, get_current_context
    except ImportError:  # Airflow 2
        from airflow.datasets import Dataset as Asset
        from airflow.hooks.base import BaseHook
        from airflow.models.baseoperator import BaseOperator
        from airflow.operators.python import get_current_context
    try:
        from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException, AirflowSkipException
    except ImportError:  # before Airflow 3.2
        from airflow.exceptions import AirflowFailException, AirflowNotFoundException, AirflowSkipException

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
