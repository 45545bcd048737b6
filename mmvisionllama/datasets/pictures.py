"""Reading image files, with errors that name the file."""

import io
import os
import tempfile
from typing import Optional, Tuple

import numpy as np
from mmengine import fileio

from ..errors import DataError

#: formats whose EXIF orientation OpenCV leaves alone
NOT_TURNED = ('WEBP', 'AVIF')


def orientation(image) -> int:
    """EXIF orientation, 1 for upright and where it cannot be read, which decoders ignore, too."""
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # Pillow parses what any tool has written: SyntaxError, ValueError, struct.error and others
        return 1


def upright(image):
    """The image turned by its EXIF orientation."""
    from PIL import ImageOps

    return image if orientation(image) == 1 else ImageOps.exif_transpose(image)


def left_lying(image) -> bool:
    """Whether OpenCV does not turn an image file that its EXIF orientation says to turn."""
    return image.format in NOT_TURNED and orientation(image) != 1


def standing(path: str, folder: str) -> str:
    """A file of the picture that OpenCV loads upright: ``path`` itself, or where that lies, a PNG copy in ``folder``.

    Raises:
        DataError: As :func:`read`.
    """
    image = read(path, 'picture')
    if not left_lying(image):
        return str(path)
    handle, copy = tempfile.mkstemp('.png', dir=folder)
    os.close(handle)
    upright(image).convert('RGB').save(copy)
    return copy


def upright_size(image) -> Tuple[int, int]:
    """Width and height of an image file as OpenCV loads it: upright but for :data:`NOT_TURNED`."""
    # the orientations that exchange the axes
    turned = orientation(image) in (5, 6, 7, 8) and not left_lying(image)
    return image.size[::-1] if turned else image.size


def eight_bit(image, path: str):
    """Grey levels of 16 bits brought to 8; Pillow's ``convert`` would clip them to white. Other images as they are.

    Raises:
        DataError: For floating-point pixels and for 32-bit ones that are no 16-bit levels: their range is unknown.
    """
    from PIL import Image

    if image.mode not in ('I', 'F') and not image.mode.startswith('I;16'):
        return image
    levels = np.asarray(image)
    if image.mode == 'F' or levels.min() < 0 or levels.max() > 65535:
        raise DataError(f'picture {path} has pixels of an unknown range (mode {image.mode}): save it with 8 or 16 bits')
    return Image.fromarray(((levels.astype(np.int64) + 128) // 257).astype(np.uint8))


def read(path: str, what: str, backend_args: Optional[dict] = None, max_pixels: Optional[int] = None):
    """A fully decoded Pillow image.

    Raises:
        DataError: If the file is not there, no image, cut off, or of more pixels than Pillow takes or than
            ``max_pixels``, which its header says before anything is decoded.
    """
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(fileio.get(path, backend_args=backend_args)))
        if max_pixels is not None and image.width * image.height > max_pixels:
            raise Image.DecompressionBombError(f'{image.width} x {image.height}, {max_pixels:,} at most')
        image.load()
    except FileNotFoundError as error:
        raise DataError(f'{what} {path} does not exist') from error
    except Image.DecompressionBombError as error:
        raise DataError(f'{what} {path} has too many pixels ({error}): make it smaller') from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow: SyntaxError for broken PNG chunks
        reason = 'it is no image' if 'cannot identify' in str(error) else error
        raise DataError(f'{what} {path} cannot be read ({reason}): replace the file') from error
    return image
