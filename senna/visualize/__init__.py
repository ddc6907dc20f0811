"""Drawings of a model's predictions: a picture per key frame and a film per scene."""
