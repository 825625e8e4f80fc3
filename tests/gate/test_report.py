"""What the gate says, in every format, whatever the names in it are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from junitparser import Error, Failure, JUnitXml

from harness.errors import InvalidInput, StoreError
from harness.gate import report
from harness.gate.verdict import Judgement, Outcome, Verdict
from tests.helpers.commands import ROOT

SLOWER = Judgement(
    subject="jax on cpu",
    metric="train time",
    outcome="regression",
    change=0.048,
    low=0.039,
    high=0.057,
    p=1e-9,
    n=12,
    tolerance=0.02,
)
FINE = SLOWER.model_copy(
    update={"subject": "torch on cpu", "outcome": "pass", "change": -0.003, "low": -0.01}
)
UNKNOWN = Judgement(
    subject="torch on gpu",
    metric="final_mse",
    outcome="inconclusive",
    change=0.05,
    low=-0.04,
    high=0.16,
    n=3,
    tolerance=0.1,
)
WRONG = Judgement(subject="jax on cpu", metric="parity", outcome="regression", reason="it is wrong")
HOSTILE = "<script>|`@you`\n[x](y) *b* \x1b[31m &amp; ]]> --"


def verdict(*judgements: Judgement, notes: tuple[str, ...] = ()) -> Verdict:
    return Verdict(compared="tree against main", judgements=judgements, notes=notes, seconds=12.3)


@pytest.mark.parametrize(
    ("judgements", "sentence"),
    [
        ([FINE], "PASS: nothing got worse by more than is allowed (1 comparison)."),
        (
            [FINE, SLOWER, UNKNOWN],
            "REGRESSION: jax on cpu is 4.8 % slower [3.9, 5.7]; at most 2 % is allowed.",
        ),
        (
            [SLOWER.model_copy(update={"change": 0.019, "low": 0.012, "high": 0.026})],
            "REGRESSION: jax on cpu is 1.9 % slower [1.2, 2.6], which is not shown to be within "
            "the 2 % allowed.",
        ),
        (
            [SLOWER.model_copy(update={"metric": "final_mse", "change": 12.345})],
            "REGRESSION: final_mse of jax on cpu is 13.3 times as high [1.04, 1.06]; at most 2 % "
            "is allowed.",
        ),
        (
            [SLOWER.model_copy(update={"change": 999.0, "low": None, "high": None})],
            "REGRESSION: jax on cpu is 1,000 times as slow [unknown]; at most 2 % is allowed.",
        ),
        (
            [SLOWER, WRONG],
            "REGRESSION: parity of jax on cpu: it is wrong. 1 more comparison like it.",
        ),
        (
            [FINE, UNKNOWN],
            "INCONCLUSIVE: final_mse of torch on gpu changed by +5.0 % [-4.0, +16.0], which is "
            "neither shown to be within the 10 % allowed nor to be worse; measure longer "
            "(`--budget`) or on a quieter machine, or allow more.",
        ),
        ([], "INCONCLUSIVE: nothing was compared."),
    ],
)
def test_the_sentence(judgements: list[Judgement], sentence: str) -> None:
    assert report.sentence(verdict(*judgements)) == sentence


@pytest.mark.parametrize(("outcome", "code"), [("pass", 0), ("regression", 1), ("inconclusive", 3)])
def test_the_exit_code(outcome: Outcome, code: int) -> None:
    assert report.EXIT_CODES[verdict(FINE.model_copy(update={"outcome": outcome})).outcome] == code


def test_the_terminal() -> None:
    text = report.terminal(verdict(FINE, UNKNOWN, SLOWER, WRONG, notes=("a note",)), width=100)
    lines = text.splitlines()
    assert lines[0] == "tree against main"
    row = "jax on cpu train time +4.8 % [+3.9, +5.7] 2 % 12 REGRESSION"
    assert " ".join(lines[3].split()) == row
    assert "note: a note" in lines
    assert lines[-1].startswith("REGRESSION: ")
    assert max(map(len, lines[:-1])) <= 100


def test_what_all_names_begin_with_and_what_all_reasons_say_is_not_repeated() -> None:
    many = [
        UNKNOWN.model_copy(update={"subject": f"tests/test_it.py::test_{n}", "reason": "do more"})
        for n in range(3)
    ]
    text = report.terminal(verdict(*many))
    assert text.count("do more") == 1
    assert text.count("tests/test_it.py::") == 1
    assert "\ntest_0" in text
    assert "tests/test_it.py::test_0" in report.junit(verdict(*many))
    assert "\ntest_0" not in report.terminal(verdict(*many, SLOWER))


def test_json_holds_everything() -> None:
    given = verdict(FINE, WRONG, notes=("a note",))
    content = json.loads(report.as_json(given))
    assert (content["schema_version"], content["outcome"]) == (1, "regression")
    assert Verdict.model_validate(content) == given


# What the JUnit schema of the Jenkins xUnit plugin allows (junit-10.xsd), element by element.
JUNIT = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, ["testsuite"]),
    "testsuite": (
        {"name", "tests", "failures", "errors", "time", "skipped"},
        ["properties", "testcase", "system-out"],
    ),
    "properties": (set(), ["property"]),
    "property": ({"name", "value"}, []),
    "testcase": ({"name", "classname", "time"}, ["failure", "error"]),
    "failure": ({"type", "message"}, []),
    "error": ({"type", "message"}, []),
    "system-out": (set(), []),
}


def check_junit(element: ET.Element) -> None:
    attributes, children = JUNIT[element.tag]
    assert set(element.attrib) <= attributes
    order = [children.index(child.tag) for child in element]
    assert order == sorted(order)
    for child in element:
        check_junit(child)


@pytest.mark.parametrize("name", ["jax on cpu", HOSTILE, "not in XML: \ufffe\uffff\x00"])
def test_junit_is_read_by_others(name: str) -> None:
    renamed = [f.model_copy(update={"subject": name}) for f in (FINE, SLOWER, UNKNOWN, WRONG)]
    text = report.junit(verdict(*renamed, notes=(HOSTILE,)))
    check_junit(ET.fromstring(text.encode()))
    (suite,) = JUnitXml.fromstring(text.encode())
    assert (suite.tests, suite.failures, suite.errors, suite.time) == (4, 2, 1, 12.3)
    kinds = [[type(result) for result in case.result] for case in suite]
    assert kinds == [[], [Failure], [Error], [Failure]]
    (failure,) = list(suite)[1].result
    assert "at most 2 % is allowed" in failure.message


def test_markdown_keeps_names_as_text() -> None:
    given = UNKNOWN.model_copy(update={"subject": HOSTILE, "reason": HOSTILE})
    text = report.markdown(verdict(given, notes=(HOSTILE,)))
    assert text.startswith(f"{report.MARKER}\n### Benchmark gate: inconclusive\n")
    for forbidden in ("<script>", "@you", "[x]", "`", "\x1b", "*b*"):
        assert forbidden not in text
    (row,) = [line for line in text.splitlines() if line.startswith("| &lt;script&gt;")]
    assert row.count("|") == 7
    assert text.count("<details>") == text.count("</details>") == 1


def test_the_workflow_finds_its_comment_again() -> None:
    workflow = (ROOT / ".github" / "workflows" / "benchmark.yml").read_text()
    assert f'startswith("{report.MARKER}")' in workflow


def test_markdown_fits_into_a_comment(tmp_path: Path) -> None:
    many = [
        FINE.model_copy(update={"subject": f"tests/test_something.py::test_{n}"})
        for n in range(2000)
    ]
    given = verdict(*many, SLOWER)
    report.write(given, {"markdown": tmp_path / "gate.md"})
    text = (tmp_path / "gate.md").read_text()
    assert 60_000 < len(text.encode()) <= 65_536
    shown = text.count("\n| tests/") + 1
    assert f"and {2001 - shown} more. The whole table is in &#96;gate.whole.md&#96;." in text
    assert "| jax on cpu |" in text
    assert (tmp_path / "gate.whole.md").read_text().count("\n| ") == 2003


@pytest.mark.parametrize(("letter", "number"), [("x", 1), ("|", 300), ("\N{GRINNING FACE}", 300)])
def test_no_name_is_too_long(tmp_path: Path, letter: str, number: int) -> None:
    name = letter * (80_000 // number)
    long = [
        UNKNOWN.model_copy(update={"subject": f"{n}{name}{n}", "reason": f"{n}{name}"})
        for n in range(number)
    ]
    given = verdict(*long, notes=(letter * 70_000,))
    report.write(given, {"markdown": tmp_path / "gate.md", "json": tmp_path / "gate.json"})
    text = (tmp_path / "gate.md").read_text()
    assert len(text.encode()) <= 65_536
    assert text.startswith(report.MARKER)
    assert text.endswith("</details>\n")
    assert "\n| 0" in text
    whole = (tmp_path / "gate.whole.md").read_text()
    assert report._literal(name) in whole
    findings = json.loads((tmp_path / "gate.json").read_text())["findings"]
    assert name in findings[0]["subject"]
    for width in (20, 80, 500):
        lines = report.terminal(given, width).splitlines()
        assert max(map(len, lines)) < 2000
        assert lines[3].startswith("0")
        assert len(lines[3].split()[0]) <= max(80, width)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["b.py::test_ip[::1]"], ["test_ip[::1]"]),
        (["b.py::test_ip[::1]", "b.py::test_ip[a::b]"], ["test_ip[::1]", "test_ip[a::b]"]),
        (["b.py::T::test[x]", "b.py::T::test[::]"], ["test[x]", "test[::]"]),
        (["b.py::test[[red]|`x`/<b>]"], ["test[[red]|`x`/<b>]"]),
        (["a.py::test[::1]", "b.py::test[::1]"], ["a.py::test[::1]", "b.py::test[::1]"]),
        (["a[1]/b.py::test[x::y]"], ["a[1]/b.py::test[x::y]"]),
    ],
)
def test_names_are_shown_whole(names: list[str], shown: list[str]) -> None:
    given = verdict(*(FINE.model_copy(update={"subject": name}) for name in names))
    rows = report.terminal(given).splitlines()[3 : 3 + len(names)]
    assert [row.split()[0] for row in rows] == shown
    for name in shown:
        assert f"\n| {report._literal(name)} | train time |" in report.markdown(given)


def test_what_is_most_useful_comes_first() -> None:
    accuracy = Judgement(
        subject="jax on cpu", metric="accuracy", outcome="inconclusive", n=2, reason="identical"
    )
    rare, time = (
        UNKNOWN.model_copy(update={"metric": metric, "change": change, "reason": "do this"})
        for metric, change in (("time in rare calls", 0.5), ("train time", 0.1))
    )
    gone = UNKNOWN.model_copy(update={"metric": "train time", "change": None, "reason": "gone"})
    given = verdict(accuracy, rare, UNKNOWN, time, FINE)
    rows = report.terminal(given, 120).splitlines()[3:8]
    words = ["train time", "final_mse", "time in rare calls", "accuracy", "pass"]
    assert [word in row for word, row in zip(words, rows, strict=True)] == [True] * 5
    assert report.sentence(given).endswith("nor to be worse; do this. 3 more comparisons like it.")
    assert "gone." in report.sentence(verdict(time, gone))


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(names, names, names)
def test_every_format_takes_every_name(subject: str, metric: str, reason: str) -> None:
    given = verdict(
        Judgement(subject=subject, metric=metric, outcome="inconclusive", reason=reason),
        notes=(reason,),
    )
    assert report.terminal(given).count("\n") >= 4
    assert len(JUnitXml.fromstring(report.junit(given).encode())) == 1
    assert report.markdown(given)
    assert Verdict.model_validate_json(report.as_json(given)) == given


def test_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    paths = [tmp_path / name for name in ("gate.json", "gate.xml", "gate.md")]
    report.check_writable(paths)
    assert not any(path.exists() for path in paths)
    given = verdict(FINE)
    assert report.write(given, dict(zip(report.FORMATS, paths, strict=True))) == ""
    texts = [report.as_json(given), report.junit(given), report.markdown(given)]
    assert [path.read_text() for path in paths] == texts
    assert summary.read_text() == "before\n" + texts[2]
    assert len(list(tmp_path.iterdir())) == 4
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    assert "cannot be written: Is a directory" in report.write(given, {})


def test_only_the_files_asked_for_are_written(tmp_path: Path) -> None:
    report.write(verdict(FINE), {"junit": tmp_path / "gate.xml", "json": None})
    assert [path.name for path in tmp_path.iterdir()] == ["gate.xml"]
    with pytest.raises(StoreError, match="cannot be written"):
        report.write(verdict(FINE), {"json": tmp_path / "none" / "gate.json"})


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (link := tmp_path / "link").symlink_to(tmp_path / "gate.json")
    report.check_writable([link])
    report.write(verdict(FINE), {"json": link})
    assert link.is_symlink()
    assert (tmp_path / "gate.json").read_text() == report.as_json(verdict(FINE))
    (loop := tmp_path / "loop").symlink_to(loop)
    report.check_writable([loop, None, Path("/dev/null")])
    report.write(verdict(FINE), {"json": Path("/dev/null")})
    assert Path("/dev/null").is_char_device()


def test_an_open_stream_is_written_to_where_it_stands(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        log.write("before\n")
        log.flush()
        stream = Path(f"/dev/fd/{log.fileno()}")
        report.check_writable([stream])
        report.write(verdict(FINE), {"json": stream})
        log.write("after\n")
    assert (tmp_path / "log").read_text() == f"before\n{report.as_json(verdict(FINE))}after\n"
    readable, writable = os.pipe()
    report.write(verdict(FINE), {"markdown": Path(f"/dev/fd/{writable}")})
    assert os.read(readable, 2**16).decode() == report.markdown(verdict(FINE))
    with pytest.raises(InvalidInput, match="it is not open"):
        report.check_writable([Path(f"/dev/fd/{readable}")])
    os.close(readable)
    os.close(writable)


@pytest.mark.parametrize("path", ["none/gate.md", "folder", "/proc/gate.md", "x" * 300])
def test_what_cannot_be_written_is_refused_beforehand(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidInput, match="cannot be written"):
        report.check_writable([None, tmp_path / path])


def test_one_file_for_two_outputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="named for two outputs"):
        report.check_writable([tmp_path / "gate", tmp_path / "." / "gate"])
