"""Serving: Senna as a model of vLLM."""
