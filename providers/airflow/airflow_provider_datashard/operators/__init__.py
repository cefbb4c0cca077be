"""Operators of the DataShard provider."""
