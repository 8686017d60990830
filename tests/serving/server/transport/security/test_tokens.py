from pathlib import Path

import pytest

from hangtag.serving.server.errors import StartError, UnauthenticatedError
from hangtag.serving.server.transport.security.tokens import Tokens

OLD, NEW = "0123456789abcdef", "fedcba9876543210fedcba"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text(f"# of the shop\n{OLD}\n\n  {NEW} \n")
    return file


def admits(tokens: Tokens, value: str | bytes, key: str = "authorization") -> bool:
    try:
        tokens.authorise([("user-agent", "test"), (key, value)])
    except UnauthenticatedError:
        return False
    return True


def test_every_token_of_the_file_is_valid(file: Path) -> None:
    tokens = Tokens(file, 0)
    assert admits(tokens, f"Bearer {OLD}")
    assert admits(tokens, f"bearer {NEW}")
    assert admits(tokens, f"BEARER  {NEW}")


@pytest.mark.parametrize(
    "value",
    [
        OLD,
        f"Basic {OLD}",
        f"Bearer {OLD[:-1]}",
        f"Bearer {OLD}0",
        f"Bearer {OLD} {NEW}",
        f"Bearer {OLD}\xa0",
        f"Bearer \u2003{OLD}",
        f"Bearer\xa0{OLD}",
        f"Bearer {OLD} ",
        f"Bearer {OLD}\n",
        f"Bearer\t{OLD}",
        f" Bearer {OLD}",
        f"Bearer {OLD}\udc80",
        "Bearer ",
        "",
        "Bearer é",
        b"x",
    ],
)
def test_nothing_else_is_valid(file: Path, value: str | bytes) -> None:
    assert not admits(Tokens(file, 0), value)


def test_the_refusal_says_how_to_send_a_token(file: Path) -> None:
    with pytest.raises(
        UnauthenticatedError,
        match="send 'authorization: Bearer <token>' with each call, in gRPC's metadata or HTTP's headers",
    ):
        Tokens(file, 0).authorise([])
    with pytest.raises(UnauthenticatedError, match="the token is not valid here") as refused:
        Tokens(file, 0).authorise([("authorization", "Bearer secret-of-mine")])
    assert "secret" not in str(refused.value)


def test_the_file_is_read_again_when_it_changes(file: Path) -> None:
    tokens = Tokens(file, 0)
    file.write_text(NEW)
    assert (admits(tokens, f"Bearer {OLD}"), admits(tokens, f"Bearer {NEW}")) == (False, True)


def test_a_missing_or_broken_file_keeps_the_last_tokens_and_an_empty_one_has_none(file: Path) -> None:
    tokens = Tokens(file, 0)
    file.unlink()
    assert admits(tokens, f"Bearer {OLD}")
    file.write_text("short")
    assert admits(tokens, f"Bearer {OLD}")
    file.write_text("# nobody\n")
    assert not admits(tokens, f"Bearer {OLD}")


@pytest.mark.parametrize("content", ["abcdefghijk", f"{OLD}\ntwo words in a line of it", "ünïcödé-is-no-ascii"])
def test_a_malformed_token_is_an_error_that_does_not_show_it(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(StartError, match=r"tokens \(--token-file\): token [12] is too short or not one word") as error:
        Tokens(file, 0)
    assert content.split()[-1] not in str(error.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"gone \(--token-file\) cannot be read: No such file"):
        Tokens(tmp_path / "gone", 0)
