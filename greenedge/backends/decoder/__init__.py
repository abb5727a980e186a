"""Decoders on an FPGA: one engine for the model (hdl/rtl/decoder), its memories, what it needs, its simulation."""
