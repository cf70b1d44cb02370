"""One minus sign, and none before a zero."""

from epsilon_dpo.report.style.signs import fixed


def test_values_as_the_page_prints_them() -> None:
    assert [fixed(x, 3) for x in (-6.5371, 6.5371, 0.0)] == ["−6.537", "6.537", "0.000"]
    assert [fixed(x, 1, plus=True) for x in (-2.54, 2.5, 0.0)] == ["−2.5", "+2.5", "+0.0"]
    assert fixed(-0.001, 2) == "0.00" and fixed(-0.001, 2, plus=True) == "+0.00"
