"""What a store's refusal says stands in the error, without secrets, and with an advice that fits the code."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest
from msgspec.structs import replace

import datashard_core as ds
from datashard_core.config import S3Config, TransportChoice
from datashard_core.errors import DataShardError, StorageError
from datashard_core.format.parquet import write_parquet
from datashard_core.storage import s3_client
from datashard_core.storage.arrow_errors import read_arrow
from datashard_core.storage.redact import LONGEST, clean, words
from datashard_core.storage.s3 import ONE_PUT, S3Storage
from datashard_core.storage.s3_codes import CODES
from datashard_core.storage.s3_errors import Answer, meaning, read_answer
from datashard_core.table.warehouse import Warehouse
from datashard_core.testing.s3_server import S3Server

from .scripted import scripted_server

TRANSPORTS: tuple[TransportChoice, ...] = ("boto3", "obstore")
SCHEMA = ds.Schema(fields=[{"id": 1, "name": "n", "type": "long"}, {"id": 2, "name": "b", "type": "binary"}])
