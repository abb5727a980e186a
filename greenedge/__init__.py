"""greenedge: from a quantised PyTorch model to a verified FPGA bitstream or edge binary and its energy bill."""

__version__ = "0.1.0"
