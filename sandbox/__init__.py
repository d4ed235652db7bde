"""Jupyter kernels behind an isolation boundary."""
