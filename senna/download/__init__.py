"""Fetching models and data from the hub: pinned, checked by hash, continued where it was cut off."""
