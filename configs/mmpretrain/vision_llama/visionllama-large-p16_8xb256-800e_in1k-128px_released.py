# VisionLLaMA-L, first stage, as released: at 128 (paper 160), weight decay 0.05 (0.02), gradients clipped by LAMB
# alone, class token at (W-1, -1), test crop ratio 0.875 (1.0). All else as in the config it inherits from.
# Paper (Table 2): top-1 84.6 % after both stages. Not reproduced here.
# Model: 310.34 M parameters, 20.30 GMACs at 128.
# Schedule: 8 GPUs x 256 = 2048 images; floor(1,281,167 / 2048) = 625 iterations x 800 epochs.
#
#     tools/dist_train.sh configs/mmpretrain/vision_llama/visionllama-large-p16_8xb256-800e_in1k-128px_released.py 8 --amp
_base_ = ['visionllama-large-p16_8xb256-800e_in1k-160px.py']

model = dict(backbone=dict(img_size=128, anchor=128, cls_position='above_top_right'))
optim_wrapper = dict(optimizer=dict(weight_decay=0.05), clip_grad=None)

random_crop = dict(_base_.random_crop, scale=128)
resize_edge = dict(_base_.resize_edge, scale=146)  # 128 / 0.875
center_crop = dict(_base_.center_crop, crop_size=128)
train_pipeline = [_base_.load, random_crop, *_base_.augment, _base_.pack]
test_pipeline = [_base_.load, resize_edge, center_crop, _base_.pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
