"""Hooks of the DataShard provider."""
