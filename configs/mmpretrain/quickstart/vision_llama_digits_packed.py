"""Plain VisionLLaMA on digits of all sizes and aspect ratios, packed into sequences without padding.

The quickstart's model and schedule; each training image is stretched to 16 ... 56 x 16 ... 56 pixels and stays so. A
template for photographs at their native aspect ratios (docs/any_resolution.md).

Data:     python -m mmvisionllama.datasets.digits data/digits
Model:    that of vision_llama_digits.py; every image has its own grid, 4 x 4 to 14 x 14 tokens
Schedule: 18 epochs x 23 iterations x at most 64 images and 12544 tokens
Command:  python tools/train.py configs/mmpretrain/quickstart/vision_llama_digits_packed.py
Other sizes: add --cfg-options test_dataloader.dataset.pipeline.1.scale=24 to tools/test.py
"""

_base_ = ['vision_llama_digits.py']

patch_size = 4
smallest, largest = 16, 56  # pixels of a side

data_preprocessor = dict(type='PackedDataPreprocessor', base='ClsDataPreprocessor')

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='RandomResize',  # photographs: ResizeToTokens in its place
        scale=[(smallest, smallest), (largest, largest)],
        resize_type='Resize',
        keep_ratio=False,
        interpolation='bicubic',
    ),
    dict(type='Translate', magnitude=0.1, pad_val=0, prob=0.5, direction='horizontal', random_negative_prob=0.5),
    dict(type='Translate', magnitude=0.1, pad_val=0, prob=0.5, direction='vertical', random_negative_prob=0.5),
    dict(type='Rotate', angle=10.0, prob=0.5, random_negative_prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_sampler=dict(
        type='TokenBudgetBatchSampler',
        max_tokens=64 * (largest // patch_size) ** 2,
        patch_size=patch_size,
        image_size=(largest, largest),  # photographs: image_tokens of ResizeToTokens in its place
    ),
    collate_fn=dict(type='pseudo_collate'),  # a list of images, not a stack
    dataset=dict(pipeline=train_pipeline),
    drop_last=False,
)
val_dataloader = dict(collate_fn=dict(type='pseudo_collate'))
test_dataloader = val_dataloader
