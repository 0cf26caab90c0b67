"""The one Jinja environment and `render`, which answers a page or one of its fragments.

Autoescape is always on, an undefined name is an error, and data reach scripts only through
``<script type="application/json">{{ value|tojson }}</script>``: `tojson` writes no ``<``, ``>``,
``&`` or ``'``, and NaN as null.

What every template may use, besides the fields of its context dataclass:

- ``static_url("css/app.css")``: the file's URL with its content hash; ``plotly.min.js`` and
  ``htmx.min.js`` are names as well.
- ``url_for_path("/bases", token="#262", k=10)``: a link with its query; None is left out, a bool
  is written ``true`` or ``false``, and the root path is put before. From Python: `link`.
- ``number(x, digits=3)``, also a filter: significant digits; ``–`` for None and NaN. The filters
  ``signed(digits=3)`` and ``probability``: the same with a real minus sign, and three decimals.
- ``explorer`` (``.state`` is ``loading``, ``ready`` or ``failed``; ``.progress`` and ``.failure``
  say more), ``model`` (the facts of the loaded model, or None), ``badge`` (the self-check's
  ``.level``, ``.text`` and ``.reason``), ``notice`` (a sentence for a banner on each page, or
  None), ``jobs_mark`` (the ``.text`` and ``.level`` of what is under way or was interrupted, or
  None), ``pages`` (of the navigation), ``version``, ``path`` (of this request, without the root
  path), ``here`` (the whole address of
  this request, None where it was refused), ``is_fragment``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from typing import Final
from urllib.parse import quote, urlencode

import orjson
from fastapi import APIRouter
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from app import version
from app.web import assets
from app.web.security import KNOWN, own_path
from app.web.words import number, probability, signed

_root_path: ContextVar[str] = ContextVar("root_path", default="")

CARRIED: Final = 2000
"""Characters of a prompt that the links of the navigation take along."""


@dataclass(frozen=True, eq=False)
class Page:
    """One page; `app.main.PAGES` lists them in the order of the navigation."""

    title: str
    """Its name in the navigation."""
    path: str
    router: APIRouter
    reference: bool = False
    """Whether it is looked up rather than worked on: such pages share a menu."""
    takes_prompt: bool = False
    """Whether the prompt of another page goes along to it."""

    def holds(self, path: str) -> bool:
        """Whether the page, or one under it, is what stands at this path."""
        return path == self.path or (self.path != "/" and path.startswith(f"{self.path}/"))


def static_url(name: str) -> str:
    """The URL of a static file with its content hash; a name that is not there is a `KeyError`."""
    asset = assets.catalogue()[name]
    return f"{_root_path.get()}/static/{quote(name)}?v={asset.digest()}"


def url_for_path(path: str, /, **query: object) -> str:
    """A link inside the app, for templates; outside of a template use `link`."""
    return _url(_root_path.get(), path, query)


def link(request: Request, path: str, /, **query: object) -> str:
    """A link inside the app with its query; None is left out, a bool is written true or false."""
    return _url(str(request.scope.get("root_path", "")), path, query)


def _url(root: str, path: str, query: Mapping[str, object]) -> str:
    pairs = [
        (name, one)
        for name, value in query.items()
        if value is not None
        for one in (value if isinstance(value, list | tuple) else [value])
    ]
    texts = [(name, as_text(one)) for name, one in pairs]
    text = urlencode(texts, quote_via=quote, errors="replace")
    return f"{root}{quote(path, safe='/')}" + (f"?{text}" if text else "")


def as_text(value: object) -> str:
    """A value as it stands in an address: a bool is written true or false."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def json_text(value: object, **_: object) -> str:
    """JSON for people and pages: NaN becomes null; what is not text is replaced, never an error."""
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    try:
        return orjson.dumps(value, default=_plain, option=options).decode()
    except orjson.JSONEncodeError:  # a lone surrogate somewhere: it becomes U+FFFD
        return orjson.dumps(_clean(value), default=_plain, option=options).decode()


def _clean(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {_clean(key): _clean(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(one) for one in value]
    return value


def _plain(value: object) -> object:
    to_plotly = getattr(value, "to_plotly_json", None)
    if callable(to_plotly):
        return to_plotly()
    tolist = getattr(value, "tolist", None)
    if callable(tolist):
        return tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")


@functools.cache
def environment() -> Environment:
    """The app's only Jinja environment."""
    env = Environment(
        loader=FileSystemLoader(assets.templates_folder()),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.policies["json.dumps_function"] = json_text
    env.policies["json.dumps_kwargs"] = {}
    env.globals.update(static_url=static_url, url_for_path=url_for_path, number=number)
    env.filters.update(number=number, signed=signed, probability=probability)
    return env


def wants_fragment(request: Request) -> bool:
    """Whether htmx asks for a part of the page: not when it restores history, nor when boosted."""
    asked = request.headers.get("hx-request") == "true"
    whole = {request.headers.get("hx-history-restore-request"), request.headers.get("hx-boosted")}
    return asked and "true" not in whole


def render(
    request: Request,
    page: str,
    context: object,
    *,
    fragment: str | None = None,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> HTMLResponse:
    """Answer with a page, or with its fragment where htmx asks for one.

    Args:
        request: the request that is answered.
        page: the whole page's template, ``trace/page.html``.
        context: a dataclass (its fields become the template's names) or a mapping.
        fragment: the template of the part that a swap needs, ``trace/_grid.html``; it must be able
            to stand alone on the same context. None: always the page.
        status: the HTTP status.
        headers: further headers.
    """
    part = fragment is not None and wants_fragment(request)
    name = fragment if part and fragment is not None else page
    # An address that was refused is not repeated.
    told = {**_fields(context), "here": _here(request) if status < 400 else None}
    body = render_text(request, name, told, is_fragment=part)
    vary = {"Vary": "HX-Request, HX-History-Restore-Request, HX-Boosted"}
    return HTMLResponse(body, status_code=status, headers={**vary, **(headers or {})})


def render_text(request: Request, name: str, context: object, *, is_fragment: bool) -> bytes:
    """A template as bytes. A lone surrogate that slipped through shows as U+FFFD, not as a 500."""
    values: dict[str, object] = {**_common(request), "is_fragment": is_fragment, **_fields(context)}
    token = _root_path.set(str(request.scope.get("root_path", "")))
    try:
        text = environment().get_template(name).render(values)
    finally:
        _root_path.reset(token)
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _typed(text: str) -> str:
    """A text as it was typed: browsers end the lines of a form's text with CR LF."""
    return text.replace("\r\n", "\n")


def _fields(context: object) -> dict[str, object]:
    if isinstance(context, Mapping):
        return {str(name): value for name, value in context.items()}
    if is_dataclass(context) and not isinstance(context, type):
        # Shallow on purpose: templates see the engine's values as they are.
        return {f.name: getattr(context, f.name) for f in fields(context)}
    raise TypeError("a context is a dataclass or a mapping")


def _here(request: Request) -> str:
    """The address that was asked for, as a link inside the app; its texts as they were typed."""
    query = quote(request.scope["query_string"], safe="=&%+-_.~*!();:@,/?$'")
    query = query.replace("%0D%0A", "%0A").replace("%0d%0a", "%0A")
    return link(request, own_path(request.scope)) + (f"?{query}" if query else "")


def _common(request: Request) -> dict[str, object]:
    explorer = request.app.state.explorer
    # Whoever has not shown the token learns nothing of the model, not even from a refusal.
    known = bool(request.scope.get("state", {}).get(KNOWN, True))
    return {
        "explorer": explorer,
        "known": known,
        "model": explorer.info if known else None,
        "badge": explorer.badge,
        "notice": explorer.notice if known else request.app.state.settings.notice,
        "jobs_mark": request.app.state.jobs.mark if known else None,
        "version": version(),
        "pages": request.app.state.pages,
        "path": own_path(request.scope),
        "here": None,
        "present": request.app.state.present(request) if known else None,
        # Goes along to pages that read one; a whole book is left where it is.
        "carried": _typed(request.query_params.get("prompt") or "")[:CARRIED] or None,
    }
