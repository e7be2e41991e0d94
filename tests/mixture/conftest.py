import pytest

from tests.sheets import synthetic_sheet


@pytest.fixture(scope="session")
def make_sheet():
    return synthetic_sheet
