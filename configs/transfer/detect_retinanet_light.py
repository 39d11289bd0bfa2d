# RetinaNet with a light neck and head, for schedules of minutes on CPU cores: 64 channels instead of 256, and two
# convolutions before each prediction instead of four. All else is detect_retinanet.py's.
_base_ = ["./detect_retinanet.py"]

model = dict(
    neck=dict(out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64, stacked_convs=2),
)
