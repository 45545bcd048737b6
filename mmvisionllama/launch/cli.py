"""How a command-line tool ends: a clear line instead of a traceback where the user can put it right."""

import os
import sys
from typing import Any, Callable

from ..errors import DataError, MMVisionLLaMAError
from .config import missing_library


def run_cli(main: Callable[[], Any]) -> None:
    """Runs ``main`` and ends with one clear line, without a traceback, when the user can put it right.

    Of several processes only the first speaks.
    """
    try:
        main()
    except DataError as error:
        # a data loader's worker puts its traceback before the message
        message = str(error).rstrip().splitlines()[-1].split('DataError: ')[-1]
    except MMVisionLLaMAError as error:
        message = str(error)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith('mmvisionllama'):
            raise
        message = missing_library(error.name)
    except ImportError as error:
        if "pip install 'mmvisionllama[" not in str(error):  # a broken library, not a missing extra
            raise
        message = str(error)
    except AssertionError as error:  # mmcv's LoadImageFromFile
        if 'failed to load image: ' not in str(error):
            raise
        path = str(error).rstrip().splitlines()[-1].split('failed to load image: ')[-1]
        message = f'picture {path} cannot be read: replace the file'
    except ValueError as error:
        if 'need at least one array to concatenate' not in str(error):
            raise
        # mmengine packs the samples of a data set into one array
        message = 'a data set of the config has no samples: check its ann_file, data_prefix and filter_cfg'
    else:
        return
    if os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0':
        print(f'error: {message}', file=sys.stderr)
    sys.exit(1)
