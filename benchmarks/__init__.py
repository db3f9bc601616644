"""Measurements behind the published figures; raw data in ``benchmarks/results``."""
