#!/bin/sh
# Remove files that hangtag never reads from the virtual environment in $1: tests, headers, type stubs, the development tools of
# ONNX Runtime and NumPy, ONNX Runtime's library for programs in C (its Python module contains the same code), Pillow's AVIF decoder
# (the server accepts PNG, JPEG and WebP), the debugging symbols of uvloop, which are nine tenths of it, and Pygments' languages but
# Python, which tracebacks in a terminal show. `make -C deploy test` runs the trimmed images.
set -eu
packages=$(echo "$1"/lib/python3*/site-packages)
cd "$packages"

find . -depth -type d \( -name tests -o -name include \) -exec rm -r {} +
find . -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.a' -o -name '*.h' \) -delete
rm -rf onnxruntime/transformers onnxruntime/quantization onnxruntime/tools onnxruntime/datasets onnxruntime/backend
rm -f onnxruntime/capi/libonnxruntime.so.*
rm -rf numpy/doc
# SciPy imports every public module of NumPy.
[ -d scipy ] || rm -rf numpy/f2py
[ ! -d uvloop ] || strip --strip-unneeded uvloop/loop.*.so
rm -f PIL/_avif.*.so pillow.libs/libavif-*.so*
[ ! -d pygments ] || find pygments/lexers -type f ! -name __init__.py ! -name _mapping.py ! -name python.py -delete
