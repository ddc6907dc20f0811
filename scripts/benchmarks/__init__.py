"""What `scripts/benchmark.py` measures: a module a subcommand, each with `run` (figures) and `chart_of` (what to draw)."""
