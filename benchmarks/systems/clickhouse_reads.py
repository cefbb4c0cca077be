"""ClickHouse reads a table by its folder, several times in one process: ``clickhouse_reads.py URL KEY SECRET``."""

from __future__ import annotations

import json
import sys
import time

import chdb

TIMES = 6


def main() -> None:
    url, key, secret = sys.argv[1:]
    chdb.query("select 1")
    answers = []
    for _ in range(TIMES):
        started = time.monotonic()
        found = chdb.query(f"select count(), sum(n) from icebergS3('{url}', '{key}', '{secret}')", "JSONCompact")
        seconds = time.monotonic() - started
        answers.append({"seconds": seconds, "rows": int(json.loads(str(found))["data"][0][0])})
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
