# VisionLLaMA-B, first stage, as released: weight decay 0.05 (paper 0.02), gradients clipped by LAMB alone, class token
# at (W-1, -1), test crop ratio 0.875 (1.0). All else as in the config it inherits from.
# Paper (Table 2): top-1 83.6 % after both stages. Not reproduced here.
# Model: 86.39 M parameters, 12.79 GMACs at 192.
# Schedule: 8 GPUs x 256 = 2048 images; floor(1,281,167 / 2048) = 625 iterations x 800 epochs.
#
#     tools/dist_train.sh configs/mmpretrain/vision_llama/visionllama-base-p16_8xb256-800e_in1k-192px_released.py 8 --amp
_base_ = ['visionllama-base-p16_8xb256-800e_in1k-192px.py']

model = dict(backbone=dict(cls_position='above_top_right'))
optim_wrapper = dict(optimizer=dict(weight_decay=0.05), clip_grad=None)

resize_edge = dict(_base_.resize_edge, scale=219)  # 192 / 0.875
test_pipeline = [_base_.load, resize_edge, _base_.center_crop, _base_.pack]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
