"""Images per second and core of the ImageNet recipes' pipelines, part by part.

    python benchmarks/data.py [--images FOLDER]

Pictures are the JPEG files of ``--images``, or made here: 500 x 375 pixels of smoothed noise at quality 90, about as
many bytes as ImageNet's. One process and one thread, as a worker of a loader runs. Rows of a part say what it costs
alone; ``decoded with`` rows are the whole pipeline with another decoder of mmcv, where it is installed, and ``resized
with cv2`` the whole pipeline without Pillow's antialiasing, which is another recipe.
"""

import copy
import io
import itertools
import sys
import tempfile
from pathlib import Path
from typing import Callable, Dict, List

import numpy as np
import torch
from harness import arguments, compare, results_of, wanted, write_csv

CONFIGS = Path(__file__).parents[1] / 'configs' / '_base_' / 'datasets'
RECIPES = {
    'plain, first stage (ThreeAugment)': 'imagenet_three_augment_224',
    'pyramid and fine-tuning (RandAugment)': 'imagenet_rand_augment_224',
    'MAE (crop and flip)': 'imagenet_mae_224',
}
DECODERS = ('pillow', 'turbojpeg')
PACKAGES = ('opencv-python-headless', 'pillow', 'numpy')


def make_pictures(folder: Path, count: int) -> List[Path]:
    """Writes pictures with the spectrum of photographs."""
    from PIL import Image

    rng = np.random.default_rng(0)
    height, width = 375, 500
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    paths = []
    for n in range(count):
        noise = rng.standard_normal((3, height, width)) + rng.standard_normal((1, height, width))
        spectrum = np.fft.rfft2(noise) / np.maximum(frequency, 1 / width) ** 0.9
        picture = np.fft.irfft2(spectrum, s=(height, width)).transpose(1, 2, 0)
        picture = (picture - picture.mean()) / picture.std() * 55 + 120
        data = io.BytesIO()
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(data, 'JPEG', quality=90)
        paths.append(folder / f'{n}.jpg')
        paths[-1].write_bytes(data.getvalue())
    return paths


def turn(function: Callable[[Path], object], paths: List[Path]) -> Callable[[], None]:
    """All pictures once."""

    def call() -> None:
        for path in paths:
            function(path)

    return call


def contenders(pipeline: List[dict], paths: List[Path]) -> Dict[str, Callable[[], None]]:
    """The whole pipeline first, then its first n transforms, then the whole with other decoders."""
    import mmcv
    from mmcv.transforms import Compose

    def run(transforms: List[dict]) -> Callable[[Path], object]:
        composed = Compose(transforms)
        return lambda path: composed(dict(img_path=str(path), gt_label=0))

    calls = {'whole pipeline': run(pipeline)}
    for n in range(1, len(pipeline)):
        calls[f'to {pipeline[n - 1]["type"]}'] = run(pipeline[:n])
    for decoder in DECODERS:
        try:
            mmcv.use_backend(decoder)  # turbojpeg answers only after this
        except (ImportError, RuntimeError) as error:
            print(f'decoded with {decoder} is left out: {error}', file=sys.stderr)
            continue
        finally:
            mmcv.use_backend('cv2')
        other = copy.deepcopy(pipeline)
        other[0]['imdecode_backend'] = decoder
        calls[f'decoded with {decoder}'] = run(other)
    antialiased = [transform for transform in pipeline if transform.get('backend') == 'pillow']
    if antialiased:
        other = [dict(transform, backend='cv2') if transform in antialiased else transform for transform in pipeline]
        calls['resized with cv2'] = run(other)
    return {name: turn(call, paths) for name, call in calls.items()}


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], 'data')
    parser.add_argument('--images', type=Path, help='folder of JPEG files to read')
    parser.add_argument('--count', type=int, default=48, help='pictures of a round')
    args = parser.parse_args()
    torch.set_num_threads(1)
    import cv2
    import mmpretrain.datasets  # noqa: F401 - registers the transforms
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    import mmvisionllama.datasets  # noqa: F401 - ThreeAugment

    cv2.setNumThreads(1)
    init_default_scope('mmpretrain')
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        if args.images:
            paths = list(itertools.islice(sorted(args.images.rglob('*.jp*g')), args.count))
        else:
            paths = make_pictures(Path(folder), args.count)
        if not paths:
            sys.exit(f'error: {args.images} holds no JPEG files')
        print(f'{len(paths)} pictures of {sum(p.stat().st_size for p in paths) / len(paths) / 1024:.0f} KiB')
        for title, name in RECIPES.items():
            if not wanted(title, args.cases):
                continue
            pipeline = Config.fromfile(CONFIGS / f'{name}.py').train_pipeline
            calls = contenders([dict(transform) for transform in pipeline], paths)
            mine = compare(title, calls, rounds=args.rounds, dtype='uint8', packages=PACKAGES)
            for row in mine:
                row['images_per_second'] = f'{len(paths) / float(row["median_s"]):.0f}'
                print(f'  {row["contender"]:<28} {row["images_per_second"]:>6} images/s')
            rows += mine
    write_csv(results_of(args), rows, args.append, ('images_per_second',))


if __name__ == '__main__':
    main()
