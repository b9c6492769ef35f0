"""What a checkpoint may ask for at most. Far above every real model, far below what would exhaust a machine."""

VOCAB = 1 << 24
CHANNELS = 1 << 20
LAYERS = 1000
HEADS = 4096
HEAD_DIM = 4096
POSITIONS = 1 << 24  # positions are exact in float32 up to here
ROPE_THETA = (2.0, 1e15)
ROPE_FACTOR = (1.0, 1e6)
FREQUENCY_FACTOR = (1e-6, 1e6)
