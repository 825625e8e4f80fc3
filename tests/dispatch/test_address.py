"""The address of a cluster, as an argument or by Ray's variables."""

from __future__ import annotations

import pytest

from harness.dispatch.ray_connect import cluster_address
from harness.errors import InvalidInput
from tests.helpers.commands import Cli


@pytest.mark.parametrize(
    ("given", "variable", "address"),
    [
        *((None, empty, None) for empty in ("", "  ", "local")),
        *((empty, "", None) for empty in ("", " ", "local")),
        (None, " HEAD:6379 ", "HEAD:6379"),
        ("a:1", "http://HEAD:8265", "a:1"),
        (None, "auto", "auto"),
    ],
)
def test_an_empty_address_is_none(
    monkeypatch: pytest.MonkeyPatch, given: str | None, variable: str, address: str | None
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", variable)
    assert cluster_address(given) == address


@pytest.mark.parametrize(
    ("given", "variable", "sentences"),
    [
        (
            None,
            "http://user@HEAD:8265/x",
            [
                "`RAY_ADDRESS=http://user@HEAD:8265/x` is a dashboard",
                "`--address HEAD:6379`",
                "stays",
            ],
        ),
        (
            "https://[::1]:8265",
            "",
            ["`https://[::1]:8265` is a", "`--address [::1]:6379`"],
        ),
        (None, "ray://HEAD:10001", ["`RAY_ADDRESS=ray://HEAD:10001` is for other programs"]),
        ("http://", "", ["`--address HEAD:6379`"]),
    ],
)
def test_the_address_of_something_else_is_named_as_what_it_is(
    monkeypatch: pytest.MonkeyPatch, given: str | None, variable: str, sentences: list[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", variable)
    with pytest.raises(InvalidInput) as refusal:
        cluster_address(given)
    for sentence in sentences:
        assert sentence in str(refusal.value)


def test_submit_names_the_variable_that_it_read(cli: Cli) -> None:
    words = ("submit", "--", "run")
    assert "`--address` is missing" in cli(*words, RAY_API_SERVER_ADDRESS=" ").stderr
    other = cli(*words, RAY_API_SERVER_ADDRESS="", RAY_ADDRESS="HEAD:6379").stderr
    assert "`RAY_ADDRESS=HEAD:6379` is not used here" in other
    wrong = cli(*words, RAY_API_SERVER_ADDRESS="HEAD:6379").stderr
    assert "`RAY_API_SERVER_ADDRESS=HEAD:6379`: give the URL" in wrong
