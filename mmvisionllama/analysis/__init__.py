"""Analyses of trained classifiers: calibration, shape and texture, rank of attention maps, 8-bit quantisation."""
