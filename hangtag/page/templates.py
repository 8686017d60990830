"""Loads the templates of pages. Each page extends base.html.j2, which includes the style sheet."""

import functools

import jinja2


@functools.cache
def environment(package: str) -> jinja2.Environment:
    """Load the templates in the folder `templates` of a package, and the templates that all pages share."""
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader("hangtag.page")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
