"""Bridges to other packages, each with one optional dependency: ``sklearn``, ``onnx``."""
