"""The check of KServe's fields reports unknown fields and wrong types."""

import pytest

from tests.deploy.kserve_fields import problems

VALID = {"supportedModelFormats": [{"name": "onnx", "autoSelect": False}], "protocolVersions": ["grpc-v2"]}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"protocolVersion": ["grpc-v2"]}, [".protocolVersion: V1alpha1ServingRuntimeSpec has no such field"]),
        ({"protocolVersions": "grpc-v2"}, [".protocolVersions: 'grpc-v2' is not a list"]),
        ({"multiModel": "false"}, [".multiModel: 'false' is not of type bool"]),
        (
            {"supportedModelFormats": [{"nme": "onnx"}]},
            [".supportedModelFormats[0].nme: V1alpha1SupportedModelFormat has no such field"],
        ),
    ],
)
def test_problems(changes: dict[str, object], expected: list[str]) -> None:
    assert problems({**VALID, **changes}, "V1alpha1ServingRuntimeSpec") == expected
