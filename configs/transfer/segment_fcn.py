# FCN on the student, for mmseg. The task fills in what depends on it: depth and channels, classes, crop, the student's
# input normalisation, data, schedule. Here stands what is set on purpose because mmseg's default would change the science.
_base_ = ["mmseg::_base_/models/fcn_r50-d8.py", "mmseg::_base_/default_runtime.py"]

# BatchNorm over all processes that train one network, as the paper did; in one process mmengine makes it plain BN.
# It trains: frozen statistics of random weights would cripple the random-init baseline.
norm_cfg = dict(type="SyncBN", requires_grad=True)

model = dict(
    # The base would download ImageNet weights. The student is loaded by LoadExactly, which checks every tensor.
    pretrained=None,
    data_preprocessor=dict(
        # The reader decodes to BGR; the student learnt RGB. Its own mean and std are filled in.
        bgr_to_rgb=True,
    ),
    backbone=dict(
        # The base's ResNetV1c has another stem (three convolutions), which would stay random.
        type="ResNet",
        depth=18,
        norm_cfg=norm_cfg,
        # BatchNorm follows the data of the task, for every checkpoint alike.
        norm_eval=False,
        # Everything is fine-tuned, as in the paper; frozen stages would favour pretrained weights over random ones.
        frozen_stages=-1,
        # Strides and dilations come from the task's output_stride (8 in the paper); they take the same weights.
        init_cfg=None,
    ),
    # The loss is a mean over labelled pixels, as in the paper. The base divides by all pixels of a crop, so that crops
    # count less the more of them is unlabelled.
    decode_head=dict(in_channels=512, norm_cfg=norm_cfg, loss_decode=dict(avg_non_ignore=True)),
    # The paper's auxiliary loss on stage 3, weight 0.4, is the base's.
    auxiliary_head=dict(in_channels=256, norm_cfg=norm_cfg, loss_decode=dict(avg_non_ignore=True)),
    # Whole images, one scale, no flip: mmseg's default protocol.
    test_cfg=dict(mode="whole"),
)
