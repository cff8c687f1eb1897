"""Measurements of how fast models train: `python -m benchmarks.training`. No part of the installed package."""
