# Mask R-CNN with Pyramid VisionLLaMA-B as released: LayerScale in the pre-trained trunk, positions scaled by 14 / H in
# every stage, the released positions of GSA's keys, windows that attend to their padding, stage norms whose output also
# enters the next stage, and weight decay for biases and LayerScale. All else as in the config it inherits from.
# Paper (Table 5): box AP 49.1, mask AP 43.8. Not reproduced here.
# Model: 75.54 M parameters, 394.43 GMACs at 800 x 1280 (1000 boxes, 100 masks).
# Schedule (section D.8): 8 GPUs x 2 = 16 images; ceil(117,266 / 16) = 7330 iterations x 36 epochs.
# Weights: init_cfg.checkpoint; published ones have to be converted first (docs/pyramid.md)
#
#     tools/dist_train.sh configs/mmdet/pyramid_vision_llama/pyramid-visionllama-base_mask-rcnn_8xb2-ms-3x_coco_released.py 8
_base_ = ['pyramid-visionllama-base_mask-rcnn_8xb2-ms-3x_coco.py']

model = dict(
    backbone=dict(
        layer_scale_init_value=1e-4,
        rope_cfg=dict(scale='height', anchor_grid=(14, 14)),
        key_position='flat_index',
        mask_padding=False,
        norm_after_stage='in_trunk',
        init_cfg=dict(checkpoint='work_dirs/pyramid-visionllama-base_8xb128-300e_in1k_released/epoch_300.pth'),
    ),
)
# norms alone are exempt
optim_wrapper = dict(
    paramwise_cfg=dict(_delete_=True, custom_keys={'norm': dict(decay_mult=0.0), '.ln': dict(decay_mult=0.0)})
)
