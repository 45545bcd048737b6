# VisionLLaMA-S as released: lr 4e-3 (paper 3e-3), weight decay 0.05 (0.02), gradients clipped by LAMB alone, class
# token at (W-1, -1), test crop ratio 0.875 (1.0). All else as in the config it inherits from.
# Paper (Table 2): top-1 81.6 %. Not reproduced here. Model: 21.96 M parameters, 4.60 GMACs at 224.
# Schedule: 8 GPUs x 256 = 2048 images; floor(1,281,167 / 2048) = 625 iterations x 800 epochs.
#
#     tools/dist_train.sh configs/mmpretrain/vision_llama/visionllama-small-p16_8xb256-800e_in1k_released.py 8 --amp
_base_ = ['visionllama-small-p16_8xb256-800e_in1k.py']

model = dict(backbone=dict(cls_position='above_top_right'))
optim_wrapper = dict(optimizer=dict(lr=4e-3, weight_decay=0.05), clip_grad=None)

resize_edge = dict(_base_.resize_edge, scale=256)  # 224 / 0.875
test_pipeline = [_base_.load, resize_edge, _base_.center_crop, _base_.pack]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
