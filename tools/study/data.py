"""Files that the study reads, from data sets as their authors publish them."""

from pathlib import Path

from mmengine.utils import ProgressBar


def reduce_grocery(data_root: Path) -> None:
    """``grocery_store/train_128``: the training photographs with a short side of 128, so that decoding is quick."""
    from PIL import Image

    root = data_root / 'grocery_store'
    done = root / 'train_128' / '.done'
    if done.exists():
        return
    files = sorted((root / 'train').glob('*/*.jpg'))
    if not files:
        raise FileNotFoundError(f'{root}/train/CLASS/*.jpg: docs/study.md says where the photographs come from')
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
