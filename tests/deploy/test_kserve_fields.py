"""The check of KServe's fields finds what it is for."""

import pytest

from tests.deploy.kserve_fields import problems

GOOD = {"supportedModelFormats": [{"name": "onnx", "autoSelect": False}], "protocolVersions": ["grpc-v2"]}


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, []),
        ({"protocolVersion": ["grpc-v2"]}, [".protocolVersion: V1alpha1ServingRuntimeSpec has no such field"]),
        ({"protocolVersions": "grpc-v2"}, [".protocolVersions: 'grpc-v2' is no list"]),
        ({"multiModel": "false"}, [".multiModel: 'false' is no bool"]),
        (
            {"supportedModelFormats": [{"nme": "onnx"}]},
            [".supportedModelFormats[0].nme: V1alpha1SupportedModelFormat has no such field"],
        ),
    ],
)
def test_what_does_not_fit(changed: dict[str, object], found: list[str]) -> None:
    assert problems({**GOOD, **changed}, "V1alpha1ServingRuntimeSpec") == found
