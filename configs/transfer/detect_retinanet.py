# RetinaNet on the student, for mmdet. The task fills in depth, channels, classes, scale, the student's input normalisation,
# data and schedule. The settings below replace mmdet's defaults where those would change the science.
_base_ = ["mmdet::_base_/models/retinanet_r50_fpn.py", "mmdet::_base_/default_runtime.py"]

model = dict(
    data_preprocessor=dict(
        # The reader decodes to BGR; the student was trained on RGB. The task fills in the student's mean and std.
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type="ResNet",
        depth=18,
        # The base freezes stem and stage 1, which cripples the random-init baseline. The paper trained all stages.
        frozen_stages=-1,
        # The base keeps BatchNorm at ImageNet statistics, which the random-init baseline does not have. The paper
        # trained BatchNorm over all processes. In one process mmengine replaces SyncBN by plain BatchNorm.
        norm_eval=False,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        # The base would download ImageNet weights. LoadExactly loads the student and checks every tensor.
        init_cfg=None,
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
