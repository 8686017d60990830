"""Checks a GPU: whether its answers are the CPU's, whether CUDA graphs are captured, and what is faster.

run checks every model of a repository and writes reports/gpu-check.json; worker measures one model in one way.
"""
