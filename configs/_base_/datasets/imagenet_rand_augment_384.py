# ImageNet-1K at 384 for the fine-tuning of iLLaMA, 8 GPUs x 64: RandAugment 9/0.5 and random erasing; in testing the
# whole image is resized to 384 x 384, without a crop.
_base_ = ['imagenet_rand_augment_224.py']

random_crop = dict(_base_.random_crop, scale=384)
resize = dict(type='Resize', scale=(384, 384), backend='pillow', interpolation='bicubic')
train_pipeline = [_base_.load, random_crop, _base_.flip, _base_.rand_augment, _base_.erase, _base_.pack]
test_pipeline = [_base_.load, resize, _base_.pack]

train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=64, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
