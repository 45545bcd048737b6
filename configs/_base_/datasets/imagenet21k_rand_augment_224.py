# ImageNet-21K as processed by Ridnik et al. (arXiv 2104.10972): the winter 2021 release, 10,450 classes, 11,060,223
# training images, in folders of classes. RandAugment 9/0.5 and random erasing as for ImageNet-1K.
_base_ = ['imagenet_rand_augment_224.py']

data_root = 'data/imagenet21k'
data_preprocessor = dict(num_classes=10450)

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root=data_root,
        data_prefix='imagenet21k_train',
        pipeline=_base_.train_pipeline,
    )
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root=data_root,
        data_prefix='imagenet21k_val',
        pipeline=_base_.test_pipeline,
    )
)
test_dataloader = val_dataloader
