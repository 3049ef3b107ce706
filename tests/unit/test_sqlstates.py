"""What each SQLSTATE means for the record that met it."""

import psycopg2
import pytest

from courant.errors import Refused, TooSlow, Unavailable, Unfit
from courant.postgres.database import kind_of


class Diag:
    def __init__(self, constraint_name: str | None) -> None:
        self.constraint_name = constraint_name


class Raised(psycopg2.Error):
    """An error as the driver raises it."""

    def __init__(self, code: str | None, constraint: str | None = None) -> None:
        self.code, self.constraint = code, constraint

    @property
    def pgcode(self) -> str | None:  # type: ignore[override]
        return self.code

    @property
    def diag(self) -> Diag:  # type: ignore[override]
        return Diag(self.constraint)


def test_a_record_is_to_blame_for_its_values_only() -> None:
    for code in ("22001", "22003", "22021", "22P02", "22P05", "54000"):
        assert kind_of(Raised(code)) is Refused, code
    for code in ("23505", "23514", "23503"):
        assert kind_of(Raised(code, "a_constraint")) is Refused, code


@pytest.mark.parametrize(
    "code",
    [
        "42703",
        "42P01",
        "42883",
        "42501",
        "XX001",
        "XX000",
        "0A000",
        "25P02",
        "P0001",
        "F0000",
        "54001",
        "54011",
        "28000",
        "3D000",
        "HV000",
        "2BP01",
        "34000",
        "99999",
    ],
)
def test_a_statement_that_does_not_fit_waits_for_a_person(code: str) -> None:
    assert kind_of(Raised(code)) is Unfit
    assert kind_of(Raised(code, "a_constraint")) is Unfit


@pytest.mark.parametrize(
    "code",
    [None, "08006", "25006", "40001", "40P01", "53100", "53300", "55000", "57P01", "58030"],
)
def test_an_outage_passes_by_itself(code: str | None) -> None:
    assert kind_of(Raised(code)) is Unavailable


@pytest.mark.parametrize("code", ["23514", "23502", "23505"])
def test_a_violation_without_a_constraint_is_the_tables(code: str) -> None:
    assert kind_of(Raised(code)) is Unavailable


def test_a_not_null_column_is_the_tables_even_if_it_has_a_name() -> None:
    assert kind_of(Raised("23502", "notifications_new_not_null")) is Unavailable


@pytest.mark.parametrize("code", ["57014", "55P03"])
def test_a_time_limit_makes_batches_smaller(code: str) -> None:
    assert kind_of(Raised(code)) is TooSlow
