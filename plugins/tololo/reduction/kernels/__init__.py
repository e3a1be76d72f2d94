"""Numerical kernels on plain arrays (numba, serial, nogil)."""
