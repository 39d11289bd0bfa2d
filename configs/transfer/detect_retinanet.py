# RetinaNet on the student, for mmdet. The task fills in what depends on it: depth and channels, classes, scale, the student's
# input normalisation, data, schedule. Here stands what is set on purpose because mmdet's default would change the science.
_base_ = ["mmdet::_base_/models/retinanet_r50_fpn.py", "mmdet::_base_/default_runtime.py"]

model = dict(
    data_preprocessor=dict(
        # The reader decodes to BGR; the student learnt RGB. Its own mean and std are filled in.
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type="ResNet",
        depth=18,
        # The base freezes stem and stage 1, which cripples a random-init baseline; the paper trained everything.
        frozen_stages=-1,
        # The base keeps BatchNorm at its ImageNet statistics, which a random-init baseline does not have; the paper
        # trained it, over all processes. In one process mmengine makes SyncBN plain BN.
        norm_eval=False,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        # The base would download ImageNet weights. The student is loaded by LoadExactly, which checks every tensor.
        init_cfg=None,
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
