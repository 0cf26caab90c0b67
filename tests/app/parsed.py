"""Pages as their elements, for tests that look at what is on one."""

from __future__ import annotations

from html.parser import HTMLParser

from starlette.testclient import TestClient

VOID = {"meta", "link", "input", "br", "img", "hr", "circle", "rect", "line", "path"}


class Parsed(HTMLParser):
    """A page as a list of elements, each with its attributes, its text and its ancestors."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(html)
        self.close()
        assert not self._open, f"left open: {[e.tag for e in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {k: v or "" for k, v in attrs}, list(self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {k: v or "" for k, v in attrs}, list(self._open)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1].tag == tag, f"</{tag}> closes <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str | None = None, **attributes: str) -> list[Element]:
        """Elements by tag and by (exact) attributes; ``class_`` looks for one of the classes."""
        wanted = attributes.pop("class_", None)
        return [
            e
            for e in self.elements
            if (tag is None or e.tag == tag)
            and (wanted is None or wanted in e.attrs.get("class", "").split())
            and all(e.attrs.get(k.replace("_", "-")) == v for k, v in attributes.items())
        ]

    def one(self, tag: str | None = None, **attributes: str) -> Element:
        found = self.all(tag, **attributes)
        assert len(found) == 1, f"{len(found)} of {tag} {attributes}"
        return found[0]


class Element:
    """One element."""

    def __init__(self, tag: str, attrs: dict[str, str], within: list[Element]) -> None:
        self.tag, self.attrs, self.within, self.text = tag, attrs, within, ""


def page(client: TestClient, path: str, **headers: str) -> Parsed:
    answer = client.get(path, headers=headers)
    assert answer.status_code == 200, answer.text[:400]
    return Parsed(answer.text)
