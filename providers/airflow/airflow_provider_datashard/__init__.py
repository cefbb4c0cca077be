"""DataShard in Apache Airflow: a connection type, a hook, and an operator that appends exactly once."""

from __future__ import annotations

__version__ = "0.1.0"
