"""Plain VisionLLaMA on digits of all sizes and aspect ratios, packed into sequences without padding.

The quickstart's model and schedule; each training image is stretched to 20 ... 44 x 20 ... 44 pixels and stays so. A
template for photographs at their native aspect ratios (docs/any_resolution.md).

Data:     python -m mmvisionllama.datasets.digits data/digits
Model:    that of vision_llama_digits.py; every image has its own grid, 5 x 5 to 11 x 11 tokens
Schedule: 18 epochs x 22 iterations x at most 64 images and 7744 tokens
Command:  python tools/train.py configs/mmpretrain/quickstart/vision_llama_digits_packed.py
Other sizes: add --cfg-options test_dataloader.dataset.pipeline.1.scale=24 to tools/test.py
"""

_base_ = ['vision_llama_digits.py']

patch_size = 4
largest = 44  # pixels of a side

data_preprocessor = dict(type='PackedDataPreprocessor', base='ClsDataPreprocessor')

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='RandomResize', scale=[(20, 20), (largest, largest)], resize_type='Resize', keep_ratio=False
    ),  # native photographs: ResizeToTokens in its place
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
