# CIFAR-100 at 224: the pipelines of ImageNet-1K without reading files, for transfer of ImageNet weights. The images are
# RGB already.
_base_ = ['imagenet_rand_augment_224.py']

dataset_type = 'CIFAR100'
data_root = 'data/cifar100'
data_preprocessor = dict(num_classes=100, to_rgb=False)

train_pipeline = _base_.train_pipeline[1:]
test_pipeline = _base_.test_pipeline[1:]
train_pipeline[2].hparams.pad_val = [round(x) for x in _base_.data_preprocessor.mean]
train_pipeline[3].update(fill_color=_base_.data_preprocessor.mean, fill_std=_base_.data_preprocessor.std)

train_dataloader = dict(
    dataset=dict(_delete_=True, type=dataset_type, data_root=data_root, split='train', pipeline=train_pipeline)
)
val_dataloader = dict(
    dataset=dict(_delete_=True, type=dataset_type, data_root=data_root, split='test', pipeline=test_pipeline)
)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator
