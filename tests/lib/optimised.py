"""A plugin for pytest under python -O: the assertions of tests and of what they share stay, those of the packages go.

    python -O -m pytest -W ignore::pytest.PytestWarning -p tests.lib.optimised FILES

The warnings would say that the assertions of the packages are gone, which is what this is for, and that this module is
not rewritten itself.
"""

import pytest

pytest.register_assert_rewrite("tests")
