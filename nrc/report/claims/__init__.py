"""The claims, by subject and in the order of the report.

A new one is a function in one of these files, or in a new file beside them, which is found without being listed here.
"""

from nrc.report.claims import last_layer, ufm  # noqa: F401 (registered by being imported, in this order)

from nrc.report.claims import layers, images, cone  # noqa: F401, isort:skip
