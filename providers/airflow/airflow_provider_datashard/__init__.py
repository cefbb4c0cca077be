"""DataShard for Apache Airflow: hook, operator and connection type."""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["__version__"]
