# ImageNet at 256 x 256 as latents of the VAE, encoded once:
#     python tools/generation/encode_latents.py data/imagenet/train data/imagenet_latents_256 --size 256
# The test loop draws 50,000 samples of random classes and compares them with ADM's reference batch.
img_size = 256

train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type='LatentShards', data_root='data/imagenet_latents_256'),
)
val_dataloader = None
val_evaluator = None
test_dataloader = dict(
    batch_size=64,
    num_workers=1,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='ClassLabels', num_samples=50000, num_classes=1000),
)
test_evaluator = dict(
    type='GenerationMetric',
    reference='data/VIRTUAL_imagenet256_labeled.npz',
    extractor=dict(type='InceptionFeatures', weights='data/weights-inception-2015-12-05-6726825d.pth'),
)
