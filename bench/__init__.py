"""Benchmarks: what this repository costs beside what its users would run otherwise. `make bench` runs them all."""
