"""What the benchmark programs share: a store with latencies, worker processes, statistics, reports."""
