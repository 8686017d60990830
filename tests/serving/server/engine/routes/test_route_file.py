"""Every mistake in a route.toml is named in one sentence."""

from pathlib import Path

import pytest

from hangtag.serving.server.engine.routes.acceptance import Acceptance
from hangtag.serving.server.engine.routes.route_file import CascadeSettings, Member, ShadowSettings, SplitSettings, read
from hangtag.serving.server.errors import StartError

ACCEPT = 'accept = {output = "probabilities", at_least = 0.9}'
CASCADE = f'cascade = ["lstm", "cnn"]\n{ACCEPT}\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "route.toml"


def test_a_cascade_is_read(file: Path) -> None:
    file.write_text(CASCADE.replace('"cnn"', '"cnn@2", "cnn-int8"') + 'on_overload = "refuse"')
    members = (Member("lstm"), Member("cnn", "2"), Member("cnn-int8"))
    assert read(file) == CascadeSettings(members, Acceptance("probabilities", "at_least", 0.9), "refuse")


def test_a_shadow_is_read(file: Path) -> None:
    file.write_text(CASCADE + 'shadow = {model = "lstm@1", share = 0.25}')
    assert read(file).shadow == ShadowSettings(Member("lstm", "1"), 0.25)


def test_a_split_is_read(file: Path) -> None:
    file.write_text('split = {cnn = 99.5, "cnn@1" = 0.5}\nsticky = "x-user-id"')
    assert read(file) == SplitSettings((Member("cnn"), Member("cnn", "1")), (99.5, 0.5), "x-user-id")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cascade =", "cannot be read as TOML"),
        ("", "a route has one of the keys cascade and split; this one has none"),
        ("cascade = []\nsplit = {}", "this one has cascade and split"),
        (
            CASCADE + "acept = 1",
            "unknown key 'acept'; a cascade may have cascade, accept, on_overload, expected_sent_on, ",
        ),
        (CASCADE + "expected_sent_on = 16.8", "expected_sent_on must be a share of the samples from 0 to 1, not 16.8"),
        (CASCADE + "expected_sent_on = true", "expected_sent_on must be a share of the samples from 0 to 1, not True"),
        (
            CASCADE + 'expected_sent_on = "0.1"',
            "expected_sent_on must be a share of the samples from 0 to 1, not '0.1'",
        ),
        (
            "split = {cnn = 100}\non_overload = 1",
            "unknown key 'on_overload'; a split may have split, sticky, shadow, d",
        ),
        (f'cascade = ["lstm"]\n{ACCEPT}', "cascade must be a list of at least two models"),
        (f'cascade = "lstm"\n{ACCEPT}', "cascade must be a list of at least two models"),
        (f'cascade = ["lstm", "lstm"]\n{ACCEPT}', "cascade names a model twice: lstm, lstm"),
        (f'cascade = ["lstm", "../cnn"]\n{ACCEPT}', "'../cnn' is not a model"),
        (f'cascade = ["lstm", "cnn@0"]\n{ACCEPT}', "'cnn@0' is not a model"),
        (f'cascade = ["lstm", "cnn@"]\n{ACCEPT}', "'cnn@' is not a model"),
        (f'cascade = ["lstm", 1]\n{ACCEPT}', "1 is not a model"),
        ('cascade = ["lstm", "cnn"]', "a cascade needs accept with the name of an output"),
        ('cascade = ["lstm", "cnn"]\naccept = {at_least = 0.9}', "a cascade needs accept with the name of an output"),
        (CASCADE.replace("at_least", "at_lest"), "accept needs one of at_least, margin_at_least, entropy_at_most"),
        (CASCADE.replace("= 0.9", "= 0.9, entropy_at_most = 1"), "it has at_least, entropy_at_most"),
        (CASCADE.replace("0.9", "90"), "at_least must be a number from 0 to 1, not 90"),
        (CASCADE.replace("0.9", "nan"), "at_least must be a number from 0 to 1, not nan"),
        (CASCADE.replace("0.9", "true"), "at_least must be a number from 0 to 1, not True"),
        (CASCADE + 'on_overload = "wait"', 'on_overload must be "answer" or "refuse", not \'wait\''),
        (CASCADE + 'shadow = "lstm"', "shadow must have a model and a share"),
        (CASCADE + 'shadow = {model = "lstm", shre = 1}', "it has model, shre"),
        (CASCADE + 'shadow = {model = "lstm", share = 10}', "share must be a number above 0 and at most 1, not 10"),
        (CASCADE + 'shadow = {model = "/", share = 1}', "'/' is not a model"),
        ("split = {}", "split must be a table of weights"),
        ("split = {cnn = 90}", "the shares must add up to 100 (percent); these add up to 90"),
        ("split = {cnn = 100, lstm = 0}", "the share of 'lstm' must be a number above 0 and up to 100, not 0"),
        ('split = {cnn = "all"}', "the share of 'cnn' must be a number"),
        ("split = {cnn = 100}\nsticky = 1", "sticky must be the name of a metadata key in lower case"),
        ("split = {cnn = 100}\ndescription = 1", "description must be a text, not 1"),
        ('split = {cnn = 100}\nsticky = "x user"', "sticky must be the name of a metadata key in lower case"),
        ('split = {cnn = 100}\nsticky = "x-user-bin"', "sticky must be the name of a metadata key in lower case"),
        ('split = {cnn = 100}\nsticky = "grpc-user"', "sticky must be the name of a metadata key in lower case"),
        ('split = {cnn = 100}\nsticky = "X-User"', "sticky must be the name of a metadata key in lower case"),
    ],
)
def test_a_mistake_is_named(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(StartError) as raised:
        read(file)
    assert str(raised.value).startswith(str(file))
    assert message in str(raised.value)


def test_a_file_that_is_not_text_is_named(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(StartError, match=r"route\.toml cannot be read as TOML"):
        read(file)
