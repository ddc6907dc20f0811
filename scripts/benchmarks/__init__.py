"""The benchmarks of `scripts/benchmark.py`: a module for each subcommand, with `run` (figures) and `chart_of` (its chart)."""
