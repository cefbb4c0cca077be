"""Every name that differs between Airflow releases, in one place.

Airflow 3 moved what Dag authors use to ``airflow.sdk``; ``common.compat`` finds it in either.
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSkipException,
    BaseHook,
    BaseOperator,
)

__all__ = ["AirflowFailException", "AirflowSkipException", "BaseHook", "BaseOperator"]
