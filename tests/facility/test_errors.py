from __future__ import annotations

import pickle

import pytest

from tololo.facility.errors import BadInputError, NothingToDoError, TololoError, UnavailableError


@pytest.mark.parametrize("kind", [TololoError, BadInputError, NothingToDoError, UnavailableError])
def test_pickled_and_back(kind: type[TololoError]) -> None:
    error = kind("The file is truncated", "/data/a.fits, HDU 3", "fetch it again")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert (back.what, back.where, back.remedy) == (error.what, error.where, error.remedy)
    assert str(back) == str(error)


def test_what_where_and_remedy_make_one_message() -> None:
    assert (
        str(BadInputError("The file is truncated.", "a.fits.", "fetch it again"))
        == "The file is truncated. Where: a.fits. What to do: fetch it again."
    )
    assert str(BadInputError("The file is truncated")) == "The file is truncated."
