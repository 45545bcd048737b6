"""Extension of griffe: docstrings name things as :class:`Name`, which the site shows as code."""

import re

from griffe import Extension

ROLE = re.compile(r':(?:class|func|meth|attr|mod|data):`~?([^`]+)`')


class Roles(Extension):
    """Rewrites roles and the double colon before a literal block."""

    def on_instance(self, *, obj, **kwargs):
        if obj.docstring:
            obj.docstring.value = re.sub(r'::$', ':', ROLE.sub(r'`\1`', obj.docstring.value), flags=re.MULTILINE)
