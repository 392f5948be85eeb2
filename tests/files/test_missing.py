"""Missing entries of a matrix: NaN in any format, or empty cells of text."""

import numpy as np
import pytest

from linflow.files import FileError, read_matrix

TEXTS = {
    "commas": "1,,3\n,5,6\n",
    "semicolons": "1;;3\n;5;6\n",
    "a header": "a,b,c\n1,,3\n,5,6\n",
    "whole numbers": "1,,3\n,,\n",
    "spaces and quotation marks": '1, ,3\n"",5,"6"\n',
    "a line without any": "# from a spreadsheet\n,,\n1,,3\n,5,6\n",
}


@pytest.mark.parametrize("text", TEXTS)
def test_empty_cells_are_missing(tmp_path, text):
    file = tmp_path / "Y.csv"
    file.write_text(TEXTS[text])
    found = read_matrix(file, missing="empty")
    expected = np.array([[1, np.nan, 3], [np.nan, 5, 6]])
    expected = np.array([[1, np.nan, 3], [np.nan] * 3]) if "whole" in text else expected
    expected = np.vstack([np.full(3, np.nan), expected]) if "without" in text else expected
    assert np.array_equal(found, expected, equal_nan=True)
    with pytest.raises(FileError, match=r"is empty; a number is needed|looks like|name"):
        read_matrix(file, missing="nan")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,nan\n,4\n", "line 1, column 2 is 'nan'.*Leave a missing cell empty, or say missing='nan'"),
        ("1.5,2\n,x\n", "line 2, column 2 is 'x'"),
        ("1,1_000\n,4\n", "line 1, column 2 is '1_000'"),
        ("1,2\n,4,5\n", "ragged"),
        ("1,inf\n,4\n", "holds inf"),
        ("1 2\n3 4\n", "no empty cells that can be told from white space"),
        ("1\t\t2\n3\t4\t5\n", "separate two columns or more by commas or semicolons"),
        ("1\n\n2\n", "no empty cells that can be told from white space and empty lines"),
        (",0,1\n0,1.5,2.5\n1,,3.5\n", "index|no name"),
    ],
)
def test_what_is_no_number_and_not_empty_is_refused(tmp_path, text, message):
    (tmp_path / "Y.csv").write_text(text)
    with pytest.raises(FileError, match=message):
        read_matrix(tmp_path / "Y.csv", missing="empty")


def test_nan_in_every_format(tmp_path):
    Y = np.array([[1.0, np.nan], [3.0, 4.0]])
    np.save(tmp_path / "Y.npy", Y)
    (tmp_path / "Y.csv").write_text("1,NaN\n3,4\n")
    for file in ("Y.npy", "Y.csv"):
        assert np.array_equal(read_matrix(tmp_path / file, missing="nan"), Y, equal_nan=True)
        with pytest.raises(FileError, match="holds nan at row 1, column 2"):
            read_matrix(tmp_path / file)
    with pytest.raises(ValueError, match=r"Y\.npy' has no empty cells; write NaN, and say missing='nan'"):
        read_matrix(tmp_path / "Y.npy", missing="empty")
    with pytest.raises(ValueError, match="missing is 'none'"):
        read_matrix(tmp_path / "Y.csv", missing="none")
