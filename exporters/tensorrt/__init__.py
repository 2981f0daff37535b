"""TensorRT 8.5 to 11: from an ONNX file to an engine whose precision has been looked at, on its own GPU.

Needs numpy and the ``tensorrt`` bindings alone, for that is what a device has: not torch, not the onnx
package. ``releases`` holds what is known of each version, ``probe`` what this machine offers; nothing else
asks for versions.
"""
