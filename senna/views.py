"""The six surround cameras and the order in which a prompt shows them."""

IMAGE_TOKEN = "<image>"

VIEWS = ("front", "front left", "front right", "back left", "back right", "back")
"""View names in the order of the prompt; a record's ``images`` have the same order."""


def image_block(views: tuple[str, ...] = VIEWS) -> str:
    r"""The head of a question: ``<FRONT VIEW>:\n<image>\n`` and so on, one placeholder a view."""
    return "".join(f"<{view.upper()} VIEW>:\n{IMAGE_TOKEN}\n" for view in views)
