"""A PyTorch model or an ONNX file in, an artefact for one runtime out; one file per target."""
