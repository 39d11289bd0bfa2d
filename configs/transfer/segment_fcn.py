# FCN on the student, for mmseg. The task fills in depth, channels, classes, crop, the student's input normalisation,
# data and schedule. The settings below replace mmseg's defaults where those would change the science.
_base_ = ["mmseg::_base_/models/fcn_r50-d8.py", "mmseg::_base_/default_runtime.py"]

# BatchNorm over all processes, as in the paper; in one process mmengine replaces it by plain BatchNorm. It is trained,
# because frozen statistics of random weights would cripple the random-init baseline.
norm_cfg = dict(type="SyncBN", requires_grad=True)

model = dict(
    # The base would download ImageNet weights. LoadExactly loads the student and checks every tensor.
    pretrained=None,
    data_preprocessor=dict(
        # The reader decodes to BGR; the student was trained on RGB. The task fills in the student's mean and std.
        bgr_to_rgb=True,
    ),
    backbone=dict(
        # The base's ResNetV1c has another stem (three convolutions), which would keep its random weights.
        type="ResNet",
        depth=18,
        norm_cfg=norm_cfg,
        # BatchNorm is trained on the task's data, for every checkpoint.
        norm_eval=False,
        # All stages are trained, as in the paper; frozen stages would favour pretrained over random weights.
        frozen_stages=-1,
        # The task's output_stride (8 in the paper) sets strides and dilations, which do not change the weights' shapes.
        init_cfg=None,
    ),
    # The loss is a mean over labelled pixels, as in the paper. The base divides by all pixels of a crop, so crops with
    # many unlabelled pixels would count less.
    decode_head=dict(in_channels=512, norm_cfg=norm_cfg, loss_decode=dict(avg_non_ignore=True)),
    # The auxiliary loss on stage 3 with weight 0.4 is the paper's and the base's.
    auxiliary_head=dict(in_channels=256, norm_cfg=norm_cfg, loss_decode=dict(avg_non_ignore=True)),
    # Whole images at one scale without flip: mmseg's default protocol.
    test_cfg=dict(mode="whole"),
)
