"""The profile's arithmetic, on what `perf report --sort dso` prints."""

import pytest

from studies.server.profile import group_shares

REPORT = """
# Overhead  Shared Object
    40.00%  onnxruntime_pybind11_state.cpython-311-x86_64-linux-gnu.so
    20.00%  libpython3.11.so.1.0
     6.00%  cygrpc.cpython-311-x86_64-linux-gnu.so
     4.00%  _native.abi3.so
     3.00%  _multiarray_umath.cpython-311-x86_64-linux-gnu.so
     2.00%  _message.abi3.so
    15.00%  [kernel.kallsyms]
    10.00%  libc.so.6
"""


def test_each_library_counts_in_one_group() -> None:
    assert group_shares(REPORT) == pytest.approx(
        {"ONNX Runtime": 0.4, "network library": 0.1, "Python": 0.25, "kernel": 0.15, "C library and others": 0.1}
    )


def test_a_report_without_libraries_has_no_shares() -> None:
    assert group_shares("# Overhead  Shared Object\n") == {}
