from docs import families


def test_the_table_of_the_page_is_that_of_the_tests() -> None:
    page = families.PAGE.read_text(encoding="utf-8")
    assert families.filled(page) == page
    assert page.count("<!-- families -->") == 1 and families.table().count("\n") > 50
