# CIFAR-100 at 224: the pipelines of ImageNet-1K without reading files, for transfer of ImageNet weights. The images are
# RGB already.
_base_ = ['imagenet_rand_augment_224.py']

dataset_type = 'CIFAR100'
data_root = 'data/cifar100'
data_preprocessor = dict(num_classes=100, to_rgb=False)

mean, std = _base_.data_preprocessor.mean, _base_.data_preprocessor.std
hparams = dict(_base_.rand_augment.hparams, pad_val=[round(x) for x in mean])
rand_augment = dict(_base_.rand_augment, hparams=hparams)
erase = dict(_base_.erase, fill_color=mean, fill_std=std)
train_pipeline = [_base_.random_crop, _base_.flip, rand_augment, erase, _base_.pack]
test_pipeline = [_base_.resize_edge, _base_.center_crop, _base_.pack]

train_dataloader = dict(
    dataset=dict(_delete_=True, type=dataset_type, data_root=data_root, split='train', pipeline=train_pipeline)
)
val_dataloader = dict(
    dataset=dict(_delete_=True, type=dataset_type, data_root=data_root, split='test', pipeline=test_pipeline)
)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator
