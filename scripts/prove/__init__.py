"""`scripts/prove_gpu.sh`: try on a GPU what only a GPU can show.

`__main__` is the command, `runner` gives each part of `parts` a process of its own, and `worker` is that process. The other
modules hold the parts. A part is a generator: it yields the name of a case and a function that returns its figures.
"""
