# VisionLLaMA-L, second stage, as released: class token at (W-1, -1), test crop ratio 0.875 (paper 1.0).
# All else as in the config it inherits from; starts from visionllama-large-p16_8xb256-800e_in1k-128px_released.py
# Paper (Table 2): top-1 84.6 %. Not reproduced here. Model: 310.34 M parameters, 62.79 GMACs at 224.
# Schedule: 8 GPUs x 64 = 512 images; floor(1,281,167 / 512) = 2502 iterations x 20 epochs.
#
#     tools/dist_train.sh configs/mmpretrain/vision_llama/visionllama-large-p16_8xb64-20e_in1k_released.py 8 --amp
_base_ = ['visionllama-large-p16_8xb64-20e_in1k.py']

model = dict(backbone=dict(cls_position='above_top_right'))
load_from = 'work_dirs/visionllama-large-p16_8xb256-800e_in1k-128px_released/epoch_800.pth'

resize_edge = dict(_base_.resize_edge, scale=256)  # 224 / 0.875
test_pipeline = [_base_.load, resize_edge, _base_.center_crop, _base_.pack]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
