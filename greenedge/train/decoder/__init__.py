"""From a float decoder to one of integers: texts of its own, calibration, quantisation-aware training, export, score.

Importing this package does not import torch; its modules do.
"""
