"""What people bring (a Brevitas module, an ONNX file) as one checked ONNX model."""
