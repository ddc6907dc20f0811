"""Images of requests: fetched by vLLM's rules, checked, and resized at once, so that a request holds little memory.

Shapes: H and W are the input height and width of the vision tower.
"""

import asyncio
import base64
import binascii
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.media import MediaConnector
from vllm.multimodal.media.base import MediaIO

from senna.data.images import PixelRules, square_pixels
from senna.errors import DataError, first_line
from senna.image_file import check_image_file
from senna.serve.refusal import refusal
from senna.serve.views import ImageSource

FORMATS = ("JPEG", "PNG", "WEBP")
MOST_MEGAPIXELS = 24.0
"""The largest image that is decoded. Cameras of cars have 1 to 12 megapixels."""
MOST_BYTES = 32 << 20
"""The largest encoded image, in bytes."""


class PixelReader(MediaIO[np.ndarray]):
    """Reads encoded images as uint8 (H, W, 3) arrays. Raises DataError for anything else, and for too large an image."""

    def __init__(self, image_processor: Any, aspect_ratio: str) -> None:
        self.rules, self.aspect_ratio = PixelRules.from_processor(image_processor), aspect_ratio

    def get_max_bytes(self) -> int:
        """Return the number of bytes after which a download is stopped."""
        return MOST_BYTES

    def load_bytes(self, data: bytes) -> np.ndarray:
        """Decode, pad and resize an image. Its EXIF orientation is ignored, as in training."""
        if len(data) > MOST_BYTES:
            raise _too_large(f"{len(data) / 1e6:.0f} MB", f"{MOST_BYTES / 1e6:.0f} MB")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                megapixels = image.width * image.height / 1e6
                if megapixels > MOST_MEGAPIXELS:
                    raise _too_large(f"{megapixels:.0f} megapixels", f"{MOST_MEGAPIXELS:.0f} megapixels")
                image.load()
                return square_pixels(image.convert("RGB"), self.rules, self.aspect_ratio)
        except DataError:
            raise
        except Image.UnidentifiedImageError as error:
            raise DataError("not a JPEG, PNG or WebP image", remedy="send an image in one of these formats") from error
        except Image.DecompressionBombError as error:  # Pillow's own limit, far above ours
            raise _too_large("hundreds of megapixels", f"{MOST_MEGAPIXELS:.0f} megapixels") from error
        except Exception as error:  # Pillow's parsers raise many kinds: SyntaxError, struct.error, EOFError, ...
            raise DataError(f"damaged or truncated ({first_line(error)})", remedy="encode the image again") from error

    def load_base64(self, media_type: str, data: str) -> np.ndarray:
        """Decode the image of a data URL."""
        if len(data) > MOST_BYTES // 3 * 4 + 4:
            raise _too_large(f"{len(data) * 3 / 4e6:.0f} MB", f"{MOST_BYTES / 1e6:.0f} MB")
        try:
            return self.load_bytes(base64.b64decode(data, validate=True))
        except binascii.Error as error:
            raise DataError(f"not base64 ({error})", remedy="encode the bytes of the image file as base64") from error

    def load_file(self, filepath: Path) -> np.ndarray:
        """Read an image of this machine, which ``--allowed-local-media-path`` must allow."""
        check_image_file(filepath)
        try:
            return self.load_bytes(filepath.read_bytes())
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})", remedy="correct the URL") from error


def _too_large(found: str, limit: str) -> DataError:
    return DataError(f"too large: {found}, and at most {limit} are read", remedy="scale the image down")


class ImageFetcher:
    """Fetches the images of a request."""

    def __init__(self, model_config: Any, image_processor: Any) -> None:
        self.reader = PixelReader(image_processor, model_config.hf_config.image_aspect_ratio or "pad")
        self.connector = MediaConnector(
            allowed_local_media_path=model_config.allowed_local_media_path,
            allowed_media_domains=model_config.allowed_media_domains,
        )

    async def fetch(self, sources: Sequence[ImageSource]) -> list[np.ndarray]:
        """Return uint8 (H, W, 3) of each image. Raises VLLMValidationError, which names the image that is refused."""
        return await asyncio.gather(*(self._fetch(source) for source in sources))

    async def _fetch(self, source: ImageSource) -> np.ndarray:
        try:
            return await self.connector.load_from_url_async(source.url, self.reader)
        except Exception as error:
            raise _refusal(source, error) from error

    def fetch_now(self, sources: Sequence[ImageSource]) -> list[np.ndarray]:
        """Do the same without an event loop."""
        images = []
        for source in sources:
            try:
                images.append(self.connector.load_from_url(source.url, self.reader))
            except Exception as error:
                raise _refusal(source, error) from error
        return images


def _refusal(source: ImageSource, error: Exception) -> VLLMValidationError:
    """Return an error for the client. Whatever stops a fetch (a wrong URL, a refusal, a timeout) concerns its URL."""
    if not isinstance(error, DataError):
        error = DataError(
            f"cannot be fetched ({first_line(error)})", remedy="send a data URL, or one that the server may fetch"
        )
    return refusal(error, source.name)
