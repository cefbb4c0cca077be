"""Saves a DataShard block in Prefect's server: its name is the argument, its fields come as JSON."""

from __future__ import annotations

import json
import sys

from prefect_datashard import DataShardBlock


def main() -> None:
    block = DataShardBlock(**json.load(sys.stdin))
    block.save(sys.argv[1], overwrite=True)


if __name__ == "__main__":
    main()
