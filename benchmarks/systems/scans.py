"""Reads a table by one of the systems, again and again, as it is told: run by the Python of that system's environment.

Reads one JSON object from its arguments (``reader``, ``root``, ``place``, and ``warm``: the URI of another table) and
then one a line from its standard input: what is to be done. Each answer says how long it took, what it found, and how
much memory the process has ever had.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

Filter = list[tuple[str, str, Any]]
"""Comparisons, all of which have to hold: column, operator, number."""


class Reader(Protocol):
    """One way to read the table."""

    def scan(self, where: Filter) -> int:
        """How many rows match, all of them read into memory."""

    def stream(self) -> int:
        """How many rows there are, read in pieces of which none is kept."""


class Planner(Reader, Protocol):
    """One that tells what it would read without reading it."""

    def plan(self, where: Filter) -> int:
        """How many files would be read."""


def _options(place: dict[str, str], **names: str) -> dict[str, str]:
    """The settings of a bucket, under a system's own names."""
    return {name: place[key] for name, key in names.items()} if "bucket" in place else {}


def _sql(where: Filter) -> str:
    texts = [f"{column} {'=' if operator == '==' else operator} {value}" for column, operator, value in where]
    return f" where {' and '.join(texts)}" if texts else ""


class Ours:
    """datashard-core."""

    def __init__(self, root: str, place: dict[str, str]) -> None:
        from place import config_of

        import datashard_core as ds

        self._col = ds.col
        warehouse, _, name = root.rpartition("/")
        if "bucket" in place:
            config = config_of(place)
            self._open = lambda: ds.connect(config=config).load_table(name)
        else:
            self._open = lambda: ds.connect(warehouse).load_table(name)
        self._table = self._open()

    def _scan(self, where: Filter) -> Any:
        condition: Any = None
        for column, operator, value in where:
            part = _APPLY[operator](self._col(column), value)
            condition = part if condition is None else condition & part
        return self._table.refresh().scan(where=condition)

    def scan(self, where: Filter) -> int:
        return int(self._scan(where).to_arrow().num_rows)

    def plan(self, where: Filter) -> int:
        return sum(1 for _ in self._scan(where).plan())

    def stream(self) -> int:
        return sum(batch.num_rows for batch in self._scan([]).to_batches())


class Arrow:
    """pyarrow.dataset over the folder of data files."""

    def __init__(self, root: str, place: dict[str, str]) -> None:
        import pyarrow.fs as pafs

        self._root = root.partition("//")[2] + "/data"
        if "bucket" in place:
            self._filesystem: Any = pafs.S3FileSystem(
                access_key=place["key"],
                secret_key=place["secret"],
                region="us-east-1",
                endpoint_override=place["endpoint"].partition("//")[2],
                scheme="http",
            )
        else:
            self._filesystem = pafs.LocalFileSystem()

    def _dataset(self) -> Any:
        import pyarrow.dataset as pads

        return pads.dataset(self._root, format="parquet", filesystem=self._filesystem, partitioning="hive")

    def _filter(self, where: Filter) -> Any:
        import pyarrow.compute as pc

        found: Any = None
        for column, operator, value in where:
            part = _APPLY[operator](pc.field(column), value)
            found = part if found is None else found & part
        return found

    def scan(self, where: Filter) -> int:
        return int(self._dataset().to_table(filter=self._filter(where)).num_rows)

    def plan(self, where: Filter) -> int:
        return sum(1 for _ in self._dataset().get_fragments(filter=self._filter(where)))

    def stream(self) -> int:
        return sum(batch.num_rows for batch in self._dataset().to_batches())


class Delta:
    """deltalake with its own query engine, by the Delta log over the same data files."""

    def __init__(self, root: str, place: dict[str, str]) -> None:
        from deltalake import DeltaTable

        names = {"AWS_ENDPOINT_URL": "endpoint", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        options = _options(place, **names)
        if options:
            options |= {"AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}
        self._table = DeltaTable(root, storage_options=options)

    def _query(self, where: Filter) -> Any:
        from deltalake import QueryBuilder

        self._table.update_incremental()
        return QueryBuilder().register("t", self._table).execute(f"select * from t{_sql(where)}")

    def scan(self, where: Filter) -> int:
        return int(self._query(where).read_all().num_rows)

    def plan(self, where: Filter) -> int:
        import pyarrow as pa
        import pyarrow.compute as pc

        files = pa.table(self._table.get_add_actions(flatten=True))
        for column, operator, value in where:
            end = "max" if operator == ">=" else "min"
            files = files.filter(_APPLY[operator](pc.field(f"{end}.{column}"), value))
        return int(files.num_rows)

    def stream(self) -> int:
        return sum(batch.num_rows for batch in self._query([]))


class Iceberg:
    """PyIceberg, by the table's folder."""

    def __init__(self, root: str, place: dict[str, str]) -> None:
        names = {"s3.endpoint": "endpoint", "s3.access-key-id": "key", "s3.secret-access-key": "secret"}
        options = _options(place, **names)
        self._options = {**options, "s3.region": "us-east-1"} if options else {}
        self._root = root

    def _scan(self, where: Filter) -> Any:
        from pyiceberg.table import StaticTable

        table = StaticTable.from_metadata(self._root, properties=self._options)
        texts = [f"{column} {operator} {value}" for column, operator, value in where]
        return table.scan(row_filter=" and ".join(texts)) if texts else table.scan()

    def scan(self, where: Filter) -> int:
        return int(self._scan(where).to_arrow().num_rows)

    def plan(self, where: Filter) -> int:
        return sum(1 for _ in self._scan(where).plan_files())

    def stream(self) -> int:
        return sum(batch.num_rows for batch in self._scan([]).to_arrow_batch_reader())


class Duck:
    """DuckDB's iceberg extension, by the table's folder."""

    def __init__(self, root: str, place: dict[str, str]) -> None:
        import duckdb

        self._connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
        for name in ("avro", "httpfs", "iceberg"):
            self._connection.execute(f"LOAD '{_extension(name)}'")
        if "bucket" in place:
            host = place["endpoint"].partition("//")[2]
            self._connection.execute(
                f"CREATE SECRET (TYPE s3, KEY_ID '{place['key']}', SECRET '{place['secret']}', ENDPOINT '{host}', "
                "URL_STYLE 'path', USE_SSL false, REGION 'us-east-1')"
            )
        self._source = f"iceberg_scan('{root.removeprefix('file://')}')"

    def _query(self, what: str, where: Filter) -> Any:
        return self._connection.execute(f"select {what} from {self._source}{_sql(where)}")

    def scan(self, where: Filter) -> int:
        return int(self._query("*", where).to_arrow_table().num_rows)

    def stream(self) -> int:
        return sum(batch.num_rows for batch in self._query("*", []).to_arrow_reader(100_000))


def _extension(name: str) -> str:
    """The extension's file in its wheel."""
    import importlib.util

    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    assert spec is not None and spec.submodule_search_locations is not None
    return str(next(Path(spec.submodule_search_locations[0]).rglob(f"{name}.duckdb_extension")))


_APPLY: dict[str, Callable[[Any, Any], Any]] = {
    "==": lambda column, value: column == value,
    ">=": lambda column, value: column >= value,
    "<": lambda column, value: column < value,
}
READERS: dict[str, Callable[[str, dict[str, str]], Reader]] = {
    "ours": Ours,
    "pyarrow": Arrow,
    "deltalake": Delta,
    "pyiceberg": Iceberg,
    "duckdb": Duck,
}


class Peak:
    """The most memory that the process has, looked at every few milliseconds."""

    def __init__(self) -> None:
        self.most = 0
        self.ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self.ended.wait(0.02):
            self.look()

    def look(self) -> int:
        """Bytes at this moment."""
        now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        self.most = max(self.most, now)
        return now

    def end(self) -> int:
        """The most bytes there were."""
        self.ended.set()
        self._thread.join()
        self.look()
        return self.most


def do(reader: Reader, order: dict[str, Any]) -> dict[str, Any]:
    """Carry out one order."""
    where = [tuple(one) for one in order.get("where", ())]
    works: dict[str, Callable[[], int]] = {
        "scan": lambda: reader.scan(where),
        "plan": lambda: cast(Planner, reader).plan(where),
        "stream": reader.stream,
    }
    peak = Peak() if order.get("memory") else None
    before = peak.look() if peak is not None else 0
    used, started = time.process_time(), time.monotonic()
    found = works[order["do"]]()
    ended = time.monotonic()
    result = {"seconds": ended - started, "cpu": time.process_time() - used, "found": found}
    return {**result, "before": before, "peak": peak.end() if peak is not None else 0}


def main() -> None:
    order = json.loads(sys.argv[1])
    try:
        if order.get("warm"):
            # Whatever a system imports, and when: it has done so once it has read another table.
            READERS[order["reader"]](order["warm"], order["place"]).scan([("run_id", ">=", 0)])
        started = time.monotonic()
        reader = READERS[order["reader"]](order["root"], order["place"])
        answer: dict[str, Any] = {"opened": time.monotonic() - started}
    except Exception as error:  # noqa: BLE001 - that a system cannot read a table is a result
        print(json.dumps({"failure": f"{type(error).__name__}: {error}"[:300]}), flush=True)
        return
    print(json.dumps(answer), flush=True)
    for line in sys.stdin:
        try:
            answer = do(reader, json.loads(line))
        except Exception as error:  # noqa: BLE001 - likewise
            answer = {"failure": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
