"""Photographs on their way through the stages: the counterpart of what windows, inference,
refine and postprocessing are for pipes.
"""
