"""Representative images in, fp16 and int8 ONNX that runtimes accept and run fast out."""
