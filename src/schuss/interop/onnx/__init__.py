"""ONNX: ``export`` writes networks with all that belongs to them as one graph, ``load`` reads dense graphs as networks."""

from schuss.interop.onnx.reading import load
from schuss.interop.onnx.writing import export

__all__ = ["export", "load"]
