"""Download of models and data sets from the hub at pinned commits, verified by hash and resumed after interruptions."""
