# VisionLLaMA-S, supervised on ImageNet-1K at 224.
# Paper (Table 2): top-1 81.6 %. Not reproduced here. Model: 21.96 M parameters, 4.60 GMACs at 224.
# Schedule (section D.1, Table 13): 8 GPUs x 256 = 2048 images; floor(1,281,167 / 2048) = 625 iterations x 800 epochs.
# Repeated augmentation takes each image three times, so an epoch sees a third of the images.
# Binary cross entropy whose targets are 1 for both classes of a mixed image, as DeiT III's.
# The release trains with lr 4e-3 and wd 0.05, and tests with crop ratio 0.875: ..._released.py
#
#     tools/dist_train.sh configs/mmpretrain/vision_llama/visionllama-small-p16_8xb256-800e_in1k.py 8 --amp
_base_ = [
    '../../_base_/models/vision_llama.py',
    '../../_base_/datasets/imagenet_three_augment_224.py',
    '../../_base_/schedules/imagenet_bs2048_lamb_800e.py',
    '../../_base_/default_runtime.py',
]
