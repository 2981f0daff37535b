"""Stand-ins for hardware: a GPU driver whose memory is the host's, TensorRT as its bindings declare it."""
