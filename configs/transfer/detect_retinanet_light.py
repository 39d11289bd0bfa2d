# RetinaNet with a light neck and head, for schedules of minutes on CPU cores: 64 channels instead of 256, and two
# convolutions before each prediction instead of four. GroupNorm in both: without any normalisation the loss of a random
# backbone explodes at the rates by which a short schedule learns. All else is detect_retinanet.py's.
_base_ = ["./detect_retinanet.py"]

norm = dict(type="GN", num_groups=16)
model = dict(
    neck=dict(out_channels=64, norm_cfg=norm),
    bbox_head=dict(
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=norm,
        anchor_generator=dict(octave_base_scale=2),
    ),
)
