"""From the messages of a chat request to a prompt of the form that the model was trained on."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from senna.data.conversation import render
from senna.errors import DataError
from senna.record_checks import has_surrogate
from senna.records import GPT, HUMAN
from senna.serve.views import ImageSource, check_count, check_views, view_named, view_of_url
from senna.views import IMAGE_TOKEN, VIEWS, image_block, prompt_views

_TAG = re.compile(r"<([a-z _-]+?)[ _-]view>\s*:\s*\Z", re.IGNORECASE)


class Chat(NamedTuple):
    """A prompt, and its images in the order of its ``<image>``."""

    prompt: str
    images: list[ImageSource]


def read_messages(messages: Sequence[Mapping[str, Any]], eos: str, version: str = "v1") -> Chat:
    """Return the prompt and the images of the messages of OpenAI's chat interface.

    Text may hold ``<image>`` itself, with or without view tags; the images then follow it. Otherwise they are put where the
    model expects them: before the question, each behind the tag of its view, in the order of ``VIEWS``. An image's view is
    its ``"view"``, the tag in the text before it, or the camera that its URL names; six images without views are in the
    order of ``VIEWS``. Images with other text between them stay where they are.

    Args:
        messages: from the user and the assistant in turn, the last one from the user.
        eos: the text that ends an answer.
        version: the prompt format.

    Raises:
        DataError: the messages do not fit.
    """
    turns, images = [], []
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role == "user":
            text, found = _question(_parts(content, number))
            images += found
            turns.append({"from": HUMAN, "value": text})
        elif role == "assistant":
            turns.append({"from": GPT, "value": "".join(map(str, _parts(content, number, with_images=False)))})
        else:
            raise DataError(
                f"the role {role!r:.40} is not supported",
                remedy="use user and assistant; the system text is part of the model's prompt format",
                record=f"messages.{number}",
            )
    if not turns or turns[-1]["from"] != HUMAN:
        raise DataError("the last message is not from the user", remedy="end with a question", record="messages")
    check_count(len(images))
    return Chat(render([*turns, {"from": GPT, "value": ""}], version, eos).text, images)


def _parts(content: Any, number: int, with_images: bool = True) -> list[str | ImageSource]:
    """Return the texts and images of a message."""
    where = f"messages.{number}"
    parts: list[str | ImageSource] = []
    items = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for item in items if isinstance(items, Iterable) else ():
        kind = item.get("type") if isinstance(item, Mapping) else None
        if kind == "text" and isinstance(item.get("text"), str):
            if has_surrogate(item["text"]):
                raise DataError(
                    "a text has a lone surrogate, half of a character", remedy="write it again", record=where
                )
            parts.append(item["text"])
        elif kind == "image_url" and with_images:
            parts.append(_image(item, f"{where}.images.{len(parts)}"))
        else:
            raise DataError(f"a part {item!r:.60} is not supported", remedy="use text and image_url", record=where)
    if not parts:
        raise DataError("the message is empty", remedy="give it a text", record=where)
    return parts


def _image(item: Mapping[str, Any], name: str) -> ImageSource:
    """Return the image of a part ``{"type": "image_url", "image_url": {"url": ...}, "view": ...}``."""
    inner = item.get("image_url")
    url = inner.get("url") if isinstance(inner, Mapping) else inner
    if not isinstance(url, str):
        raise DataError(
            "an image has no URL", remedy='write {"image_url": {"url": "data:image/jpeg;base64,..."}}', record=name
        )
    view = item.get("view") or (inner.get("view") if isinstance(inner, Mapping) else None)
    return ImageSource(url, name, view_named(view) if view else view_of_url(url))


def _question(parts: Sequence[str | ImageSource]) -> tuple[str, list[ImageSource]]:
    """Return the text of a question with its ``<image>``, and the images in their order."""
    images = [part for part in parts if isinstance(part, ImageSource)]
    text = "".join(part for part in parts if isinstance(part, str))
    if IMAGE_TOKEN in text:
        return text, _follow_placeholders(text, images)
    if not images:
        return text, []
    parts, images = _take_tags(parts)
    text = "".join(part for part in parts if isinstance(part, str))
    if all(image.view for image in images):
        by_view = {image.view: image for image in images}
        check_views([str(image.view) for image in images])
        views = tuple(view for view in VIEWS if view in by_view)
        return image_block(views) + text.lstrip("\n"), [by_view[view] for view in views]
    kinds = [isinstance(part, ImageSource) for part in parts]
    if kinds in (sorted(kinds), sorted(kinds, reverse=True)):  # all images before the text, or all after it
        block = image_block() if len(images) == len(VIEWS) else f"{IMAGE_TOKEN}\n" * len(images)
        return block + text.lstrip("\n"), images
    return "".join(part if isinstance(part, str) else IMAGE_TOKEN for part in parts), images


def _follow_placeholders(text: str, images: list[ImageSource]) -> list[ImageSource]:
    """Return the images in the order of the ``<image>`` of a text: by their views where all have one, else as given."""
    views = prompt_views(text)
    if len(views) != len(images):
        raise DataError(
            f"the text has {len(views)} {IMAGE_TOKEN}, and there are {len(images)} images",
            remedy="send as many images, or leave the placeholders out",
            record="images",
        )
    by_view = {image.view: image for image in images}
    if None in by_view or None in views:
        return images
    if len(by_view) < len(images) or by_view.keys() != set(views):
        raise DataError(
            f"the text asks for {', '.join(map(str, views))}, and the images are of {', '.join(map(str, by_view))}",
            remedy="send one image for each view of the text",
            record="images",
        )
    return [by_view[view] for view in views]


def _take_tags(parts: Sequence[str | ImageSource]) -> tuple[list[str | ImageSource], list[ImageSource]]:
    """Return the parts and images with the views of tags right before images, which are taken out of the text.

    Nothing changes unless every image has such a tag.
    """
    taken: list[str | ImageSource] = []
    for part in parts:
        if isinstance(part, ImageSource):
            before = taken.pop() if taken and isinstance(taken[-1], str) else ""
            found = _TAG.search(str(before))
            if found is None:
                return list(parts), [part for part in parts if isinstance(part, ImageSource)]
            taken.append(str(before)[: found.start()].rstrip("\n"))
            part = ImageSource(part.url, part.name, view_named(found[1]))
        taken.append(part)
    return taken, [part for part in taken if isinstance(part, ImageSource)]
