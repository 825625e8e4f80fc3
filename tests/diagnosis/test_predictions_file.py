"""Files of predictions: what is read, and what is refused with which sentence."""

from __future__ import annotations

import gzip
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from harness import InvalidInput
from harness.cli import cli
from harness.diagnosis.predictions_file import Predictions, read
from tests.helpers.predictions import predictions, right, write

HEAD = "path,t,x,prediction\n"


def invoke(*words: object) -> Result:
    return CliRunner().invoke(cli, ["explain", *map(str, words)])


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = predictions(right, paths=10)
    for zero in (True, False):
        got = read(write(tmp_path / "a.csv", made, zero))
        assert got.starts_at_zero
        for name in ("t_R", "x_R", "before_R", "prediction_R"):
            np.testing.assert_allclose(getattr(got, name), getattr(made, name), rtol=1e-12)
    (tmp_path / "b.csv").write_text("extra, path,t,x,prediction\n1,a,1,0.5,2\n2,a,2,1,3\n")
    got = read(tmp_path / "b.csv")
    assert got.before_R.tolist() == [0, 0.5]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "is empty; it needs a row of names (path, t, x, prediction) and a row for"),
        (" \n\n", "is empty; it needs"),
        (";", "there is no column `t` and no `x` and no `prediction`. It begins with `;`"),
        (",\n,", "there is no column `t` and no `x` and no `prediction`. It begins with `,`"),
        (HEAD, "has no rows"),
        ("sep=;\n", "there is no row of names"),
        ('sep="\n', "there is no column"),
        ("# a\n# b\n", "there is no row of names"),
        ("# a\n\n" + HEAD + "0,1,1,oops\n", "line 4: `prediction` is `oops`"),
        ("sep=;\npath;t;x;prediction\n0;1;1;oops\n", "line 3: `prediction` is `oops`"),
        (HEAD + "0,1,0,5,1,0\n", "If there are decimal commas, separate fields by semicolons."),
        (
            "path,time,x,y_hat\n",
            "no column `t` (is it `time`?) and no `prediction` (is it `y_hat`?)",
        ),
        ("ID;Time Step;Input;Output\n", "(is it `Input`?) and no `prediction` (is it `Output`?)"),
        ("ID;t;x;Output\n", "no `path` (is it `ID`?)"),
        ("t0,t1,t2,t3,t4\n1,1,1,1,1\n", "If each time step has a column, turn the columns into ro"),
        (HEAD + "0,1,1,\n0,2,1,1\n", "in size, at every step from t = 1 on."),
        (HEAD + "0,1,1,0.5f0\n", "write plain numbers, as 0.0075."),
        (HEAD + "0,1,1,[0.5]\n", "write plain numbers"),
        (HEAD + "0,1,Float32[0.5],1\n", "write plain numbers"),
        (HEAD + "0,1,tensor(0.5),1\n0,2,1%,1\n", "(2 such rows); write plain numbers"),
        (
            "path,t,x,predictions\n0,1,1,1\n",
            "no column `prediction` (is it `predictions`?). It begins with `path`, `t`, `x`, `pred",
        ),
        (
            "a b c\n1 2 3\n",
            "there is no column `t` and no `x` and no `prediction`. It begins with",
        ),
        ("0,1,1,1\n0,2,1,1\n", "It begins with `0`, `1`, `1`, `1`; it needs a row of names"),
        (HEAD + "0,1,1,1\n0,2,nan,1\n", "line 3: `x` is `nan`, and must be a finite number"),
        (HEAD + "0,1,,1\n", "line 2: `x` is empty, and must be a finite number"),
        (HEAD + "0,1,1,inf\n", "line 2: `prediction` is `inf`"),
        (HEAD + "0,1,1,\n", "line 2: `prediction` is empty, and must be"),
        (
            HEAD + "0,1,1,one\n0,2,1,two\n",
            "must be a finite number, up to 1e+30 in size (2",
        ),
        (HEAD + "0,1.5,1,1\n", "`t` is `1.5`, and must be a whole number"),
        (HEAD + "0,-1,1,1\n", "`t` is `-1`"),
        (HEAD + ",1,1,1\n", "line 2: `path` is empty, and must be a name"),
        (HEAD + "0,1,1,1\n0,1,1,1\n", "path `0` has t = 1 twice, in lines 2 and 3"),
        (HEAD + "a,1,1,1\na,1,1,2\nb,1,1,1\nb,1,1,1\n", "(2 of 2 paths are not)"),
        ("t,x,prediction\n1,1,1\n2,1,1\n1,1,1\n", "lines 2 and 4; number the steps of each path"),
        ("t,x,prediction\n1,1,1\n1,1,1\n", "several paths, name them in a column `path`"),
        (HEAD + "0,5,1,1\n", "nothing but t = 5; the first row of a path is an input only"),
        ('"path ",t,"x" ,prediction\n', "line 1: the quotation marks are not as in CSV"),
        (HEAD + "0,1,1,1\n0,3,1,1\n", "path `0` has t = 3 where t = 2 should be, in line 3"),
        (HEAD + "0,0,0,1\n", "nothing but t = 0"),
        (
            HEAD + "0,1,1,1,1,1\n0,1\n0,1,2,3,4,5,6,7\n",
            "line 2: there are 6 fields, and the row of",
        ),
        (HEAD + "0,1,1,1\n0,2,1,1,\n", "line 3: there are 5 fields, and the row of names has 4"),
        ("path,t,x,prediction,x\n0,1,1,1,1\n", "column 3 (`x`) and column 5 (`x`) have the same"),
        (
            "path,t,x,prediction, Prediction\n0,1,1,1,1\n",
            "column 4 (`prediction`) and column 5 (`Prediction`) have the same name",
        ),
        ('path,"PATH",t,x,prediction\n0,0,1,1,1\n', "column 1 (`path`) and column 2 (`PATH`)"),
        (HEAD + "0,0,0\n0,1,1,1\n", "line 2: there are 3 fields, and the row of names has 4"),
        (HEAD + "0;1;1;1\n", "line 2: there is 1 field, and the row of names has 4"),
        (HEAD + "\n0,1,1,1\n\n\n0,2,1,oops\n", "line 6: `prediction` is `oops`"),
        (HEAD + '"a\nb",1,1,1\n"a\nb",2,1,oops\n', "line 4: `prediction` is `oops`"),
        (HEAD + '0,1,1,1\n"0,2,1,1\n0,3,1,1\n', "line 3: the quotation marks are not as in CSV"),
        (HEAD + "0,1,1,1\n0,9e99,1,1\n", "line 3: `t` is `9e99`, and must be a whole number"),
        (HEAD + "0,1,1e300,1\n", "`x` is `1e300`, and must be a finite number, up to 1e+30"),
        (HEAD + '0,1,"1,234",1\n', "`x` is `1,234`, where the comma may separate decimals or"),
        (HEAD + '0,1,"1,5",1.5\n', "`x` is `1,5`, where the comma may separate"),
        ("path;t;x;prediction\n0;1;1.234,5;1\n", "`x` is `1.234,5`, where the comma may"),
        (
            "path;t;x;pred\n0;1;1;1\n",
            "there is no column `prediction` (is it `pred`?). It begins with",
        ),
    ],
)
def test_bad_files(content: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(content)
    done = invoke("--predictions", file)
    assert done.exit_code == 2, done.output
    assert problem in done.stderr
    assert str(file) in done.stderr


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\xff\xfe\x00\x01binary\x00", "UTF-16"),
        (HEAD.encode("utf-16"), "UTF-16; save it as UTF-8"),
        (HEAD.encode("utf-16-le"), "holds zero bytes"),
        (b"path,t,x,prediction\n\xe9,1,1,1\n", "not UTF-8 (byte 0xe9 in line 2)"),
        (b"\x00" * 99, "holds zero bytes"),
        (gzip.compress(HEAD.encode(), mtime=0), "is compressed (gzip): unpack it"),
        (b"PK\x03\x04\x14\x00", "is a ZIP archive, as Excel workbooks and NumPy's .npz are"),
        (b"\x93NUMPY\x01\x00", "is an array of NumPy: save it as CSV"),
    ],
)
def test_files_that_are_no_text(content: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_bytes(content)
    with pytest.raises(InvalidInput) as refused:
        read(tmp_path / "mine.csv")
    assert what in str(refused.value)


def rows(given: Predictions) -> list[tuple[float, ...]]:
    columns = (given.path_R, given.t_R, given.before_R, given.x_R, given.prediction_R)
    return [tuple(map(float, row)) for row in zip(*columns, strict=True)]


TWO = [(0, 1, 0, 0.5, 2), (0, 2, 0.5, -1.5, 3)]


@pytest.mark.parametrize(
    "content",
    [
        HEAD + "a,1,0.5,2\na,2,-1.5,3\n",
        HEAD + "a,2.0,-1.5,3\na,1.0,0.5,2",
        "\ufeff" + HEAD + "a,1,.5,2e0\n\n , ,,\na,2,-1.5,+3\n\n",
        '"t", "PATH", "more", "X", prediction\n1,a,7,0.5,2\n2, "a ",7,-1.5, 3\n',
        "t,x,prediction\n1,0.5,2\n2,-1.5,3\n",
        "path;t;x;prediction\na;1;0,5;2\na;2;-1,5;3,0\n",
        "path;t;x;prediction\na;1;0.5;2\na;2;-1.5;3\n",
        "path\tt\tx\tprediction\na\t1\t0.5\t2\na\t2\t-1.5\t3\n",
        HEAD + 'a,1,"0,5",2\na,2,"-1,5",3\n',
        (HEAD + "a,1,0.5,2\na,2,-1.5,3\n").replace("\n", "\r\n"),
        (HEAD + "a,1,0.5,2\na,2,-1.5,3\n").replace("\n", "\r"),
        HEAD + "a,0,0,NA\na,1,0.5,2\na,2,-1.5,3\n",
        HEAD + "a,1,0,0\na,2,0.5,2\na,3,-1.5,3\n",
        HEAD + "a,7,0,0\na,8,0.5,2\na,9,-1.5,3\n",
        'path,t,x,prediction\n"a\nb",1,0.5,2\n"a\nb",2,-1.5,3\n',
        "sep=;\r\npath;t;x;prediction\r\na;1;0.5;2\r\na;2;-1.5;3\r\n",
        "sep=|\npath|t|x|prediction\na|1|0.5|2\na|2|-1.5|3\n",
        "# columns: path,t,x,prediction\n\n" + HEAD + "a,1,0.5,2\na,2,-1.5,3\n",
        "# mine, x and t\n#\n\n" + HEAD + "a,1,0.5,2\na,2,-1.5,3\n",
        "# " + HEAD + "a,1,0.5,2\na,2,-1.5,3\n",
        "#," + HEAD + "1,a,1,0.5,2\n2,a,2,-1.5,3\n",
    ],
    ids=range(21),
)
def test_ways_to_write_two_rows(content: str, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_bytes(content.encode())
    assert rows(read(tmp_path / "mine.csv")) == TWO


def test_the_standard_input_and_pipes(tmp_path: Path) -> None:
    made = write(tmp_path / "mine.csv", predictions(right))
    done = CliRunner().invoke(cli, ["explain", "--predictions", "-"], input=made.read_bytes())
    assert done.stdout == invoke("--predictions", made).stdout
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(made.read_bytes(),))
    writer.start()
    assert invoke("--predictions", tmp_path / "pipe").stdout == done.stdout
    writer.join()


def test_a_url_is_no_file() -> None:
    done = invoke("--predictions", "https://example.org/a.csv")
    assert done.exit_code == 2
    assert "`https://example.org/a.csv` is no file; download it first." in done.stderr


def test_a_path_may_have_any_name(tmp_path: Path) -> None:
    names = ["NA", "None", "null", "nan", "NaN", "1", "1.0", "-", "true", "é", "N/A"]
    lines = [
        f"{name},{t},{number + t / 10},1\n" for number, name in enumerate(names) for t in (1, 2)
    ]
    (tmp_path / "mine.csv").write_text(HEAD + "".join(lines), encoding="utf-8")
    assert read(tmp_path / "mine.csv").paths == len(names)


def test_a_window_begins_with_an_input(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(HEAD + "a,37,3,9\na,38,4,16\nb,90,5,25\nb,91,6,36\n")
    given = read(tmp_path / "mine.csv")
    assert rows(given) == [(0, 1, 3, 4, 16), (1, 1, 5, 6, 36)]
    (note,) = given.notes
    assert note.startswith("Paths begin at t = 37 to 90, and the x before that is not in the file")
    assert given.starts_at_zero


@given(text=st.text(max_size=200), named=st.booleans())
def test_any_text_is_read_or_refused(
    text: str, named: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("any") / "mine.csv"
    file.write_text(HEAD * named + text, encoding="utf-8", errors="replace")
    done = invoke("--predictions", file)
    assert done.exit_code in {0, 2}
    assert done.exception is None or isinstance(done.exception, SystemExit)
