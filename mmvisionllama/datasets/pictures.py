"""Reading image files, with errors that name the file."""

import io
from typing import Optional, Tuple

from mmengine import fileio

from ..errors import DataError


def upright(image):
    """The image as decoders turn it by its EXIF orientation."""
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def upright_size(image) -> Tuple[int, int]:
    """Width and height of :func:`upright`'s image, without making it."""
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)  # the orientations that exchange the axes
    return image.size[::-1] if turned else image.size


def read(path: str, what: str, backend_args: Optional[dict] = None):
    """A fully decoded Pillow image.

    Raises:
        DataError: If the file is not there, no image, or cut off.
    """
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(fileio.get(path, backend_args=backend_args)))
        image.load()
    except FileNotFoundError as error:
        raise DataError(f'{what} {path} does not exist') from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow: SyntaxError for broken PNG chunks
        reason = 'it is no image' if 'cannot identify' in str(error) else error
        raise DataError(f'{what} {path} cannot be read ({reason}): replace the file') from error
    return image
