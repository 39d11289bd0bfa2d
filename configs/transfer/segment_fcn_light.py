# FCN with a light head, for schedules of minutes on CPU cores: one convolution of 128 channels instead of two of 512,
# without the concatenation of its input. The auxiliary head has 64 channels. All else is segment_fcn.py's.
_base_ = ["./segment_fcn.py"]

model = dict(
    decode_head=dict(channels=128, num_convs=1, concat_input=False),
    auxiliary_head=dict(channels=64),
)
