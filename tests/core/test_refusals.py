"""What a store's refusal says stands in the error, without secrets, and with an advice that fits the code."""

from __future__ import annotations

import datashard_core as ds
from datashard_core.config import TransportChoice

TRANSPORTS: tuple[TransportChoice, ...] = ("boto3", "obstore")
SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}, {"id": 2, "name": "b", "type": "binary"}])
