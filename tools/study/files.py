"""Files that the study reads, from data sets as their authors publish them."""

import json
import sys
from pathlib import Path

from mmengine.utils import ProgressBar

from mmvisionllama.checkpoints.writing import write_atomically
from mmvisionllama.datasets.digits import write_digits
from mmvisionllama.errors import DataError
from mmvisionllama.launch import run_cli


def reduce_grocery(data_root: Path) -> None:
    """``grocery_store/train_128``: the training photographs with a short side of 128, so that decoding is quick."""
    from PIL import Image

    root = data_root / 'grocery_store'
    done = root / 'train_128' / '.done'
    if done.exists():
        return
    files = sorted((root / 'train').glob('*/*.jpg'))
    if not files:
        raise DataError(f'{root}/train/CLASS/*.jpg are not there: docs/study.md says where the photographs come from')
    progress = ProgressBar(len(files))
    for file in files:
        target = root / 'train_128' / file.relative_to(root / 'train')
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            scale = 128 / min(image.size)
            size = tuple(round(side * scale) for side in image.size)
            image.convert('RGB').resize(size, Image.Resampling.BICUBIC).save(target, quality=92)
        progress.update()
    progress.file.write('\n')
    done.touch()


def split_cifar10(data_root: Path) -> None:
    """``cifar10/{fit,held}``: links to four fifths and to the rest of the training pictures, to choose rates with."""
    root = data_root / 'cifar10'
    files = sorted((root / 'train').glob('*/*'))
    if not files:
        raise DataError(f'{root}/train/CLASS/* are not there: docs/study.md says where the pictures come from')
    for index, file in enumerate(files):
        target = root / ('fit' if index % 5 else 'held') / file.relative_to(root / 'train')
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.symlink_to(file.resolve())


def split_nuclei(data_root: Path) -> None:
    """``nuclei/instances_{fit,held}.json``: four fifths of the training pictures and the rest, to choose rates with."""
    root = data_root / 'nuclei'
    source = root / 'instances_train.json'
    if not source.exists():
        raise DataError(f'{source} is not there: docs/study.md says where the nuclei come from')
    whole = json.loads(source.read_text())
    ids = sorted(image['id'] for image in whole['images'])
    for name, chosen in (('held', set(ids[::5])), ('fit', set(ids) - set(ids[::5]))):
        part = dict(whole, images=[image for image in whole['images'] if image['id'] in chosen])
        part['annotations'] = [found for found in whole['annotations'] if found['image_id'] in chosen]
        write_atomically(json.dumps(part).encode(), root / f'instances_{name}.json')


def make_digits(data_root: Path) -> None:
    """``digits``: scikit-learn's, as the demo writes them."""
    write_digits(str(data_root / 'digits'))


def arrange_grocery(source: Path, data_root: Path) -> int:
    """Links the Grocery Store Dataset's ``dataset`` folder, as published, into class folders; returns their number.

    Published: ``{train,val,test}/KIND/COARSE[/FINE]/*.jpg``. Here: ``grocery_store/{train,test}/COARSE/SPLIT_*.jpg``.
    """
    count = 0
    for split in ('train', 'val', 'test'):
        for file in sorted((source / split).glob('*/*/**/*.jpg')):
            _, coarse, *rest = file.relative_to(source / split).parts
            folder = data_root / 'grocery_store' / ('test' if split == 'test' else 'train') / coarse
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / '_'.join([split, *rest])
            if not target.exists():
                target.symlink_to(file.resolve())
            count += 1
    if not count:
        raise DataError(f'{source}: expected the folder with train, val and test of the published data set')
    return count


def arrange_cifar10(source: Path, data_root: Path) -> int:
    """Writes CIFAR-10's binary version, ``cifar-10-batches-bin``, as PNG files in class folders; returns their number.

    A record has a byte for the class, then 32 x 32 bytes each of red, green and blue. Here:
    ``cifar10/{train,test}/CLASS/*.png``, numbered in the order of the files.
    """
    import numpy as np
    from PIL import Image

    classes = (source / 'batches.meta.txt').read_text().split()
    batches = [*sorted(source.glob('data_batch_*.bin')), source / 'test_batch.bin']
    count, progress = 0, ProgressBar(len(batches))
    for batch in batches:
        for label, *pixels in np.fromfile(batch, np.uint8).reshape(-1, 1 + 3 * 32 * 32):
            folder = data_root / 'cifar10' / ('test' if batch.stem == 'test_batch' else 'train') / classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            picture = np.array(pixels, np.uint8).reshape(3, 32, 32).transpose(1, 2, 0)
            Image.fromarray(picture).save(folder / f'{count:05d}.png')
            count += 1
        progress.update()
    progress.file.write('\n')
    return count


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit('usage: python tools/study/files.py GroceryStoreDataset/dataset|cifar-10-batches-bin data')
    source, data_root = map(Path, sys.argv[1:])
    arrange = arrange_cifar10 if (source / 'test_batch.bin').exists() else arrange_grocery
    print(f'{arrange(source, data_root):,} pictures')


if __name__ == '__main__':
    sys.exit(run_cli(main))
