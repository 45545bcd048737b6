# Pyramid VisionLLaMA-B, supervised on ImageNet-1K at 224.
# Paper (Table 2): top-1 83.2 %. Not reproduced here. Model: 56.01 M parameters, 8.56 GMACs at 224.
# Schedule (section D.2, Table 13): 8 GPUs x 128 = 1024 images; floor(1,281,167 / 1024) = 1251 iterations x 300 epochs.
# Repeated augmentation takes each image three times, so an epoch sees a third of the images.
# The release trains without repeated augmentation, with LayerScale and down to lr 1e-5: ..._released.py
#
#     tools/dist_train.sh configs/mmpretrain/pyramid_vision_llama/pyramid-visionllama-base_8xb128-300e_in1k.py 8 --amp
_base_ = [
    '../../_base_/models/pyramid_vision_llama.py',
    '../../_base_/datasets/imagenet_rand_augment_224.py',
    '../../_base_/schedules/imagenet_bs1024_adamw_300e.py',
    '../../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(arch='base', drop_path_rate=0.3),
    head=dict(in_channels=768),
)

train_dataloader = dict(sampler=dict(_delete_=True, type='RepeatAugSampler', num_repeats=3, shuffle=True))
