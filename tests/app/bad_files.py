"""Ids that are none, files that are no label sets, forms that are none; nothing is sent here."""

from __future__ import annotations

import io
import json
import zipfile

from bad_corpus import NOBODY

CROSSED = ("..", ".", "../..", "../../etc/passwd", "/etc/passwd", "~", "~root", "..\\..\\windows",
    "C:\\boot.ini", "\\\\host\\share", "file:///etc/passwd", "http://evil.com", "//evil.com",
    "....//....//etc", "..;/..", "/", "//", "a/b", "a\\b", "CON", "NUL", "aux.txt",
    ".tmp-" + NOBODY, ".git", ".env", "manifest.json", "lexiscope.sqlite", "lexiscope.sqlite-wal",
    "incoming", "states", NOBODY + "/..", NOBODY + "/manifest.json", NOBODY[:-1], NOBODY + "0",
    NOBODY + " ", " " + NOBODY, NOBODY + "\n", NOBODY + "\t", "A" * 24, "g" * 24, "-" * 24,
    "٠" * 24, "０" * 24, "\u202e" + NOBODY, "é" * 24, "%2e%2e%2f", "%252e%252e", "%c0%ae%c0%ae",
    "*", "?", "[0-9a-f]",
    "'; DROP TABLE jobs;--", "' OR 1=1--", "<img src=x onerror=alert(1)>", "{{7*7}}", "${7*7}",
    "__proto__", "-rf", "--help", "|ls", "$(id)", "`id`", "x" * 5000, "0", "-1", "None", "null"
)  # fmt: skip
"""What an id is not."""
WITH_IDS: list[tuple[str, str]] = [
    ("GET", "/api/v1/sets/{}"),
    ("DELETE", "/api/v1/sets/{}"),
    ("GET", "/api/v1/calibrations/{}"),
    ("DELETE", "/api/v1/calibrations/{}"),
    ("GET", "/api/v1/calibrations/{}/files"),
    ("GET", "/api/v1/calibrations/{}/trace?prompt=a"),
    ("POST", "/api/v1/calibrations/{}/competitors"),
    ("POST", "/api/v1/calibrations/{}/ablation"),
    ("GET", "/api/v1/jobs/{}"),
    ("DELETE", "/api/v1/jobs/{}"),
    ("POST", "/api/v1/jobs/{}/cancel"),
    ("POST", "/api/v1/jobs/{}/restart"),
    ("GET", "/jobs/{}"),
    ("POST", "/jobs/{}/cancel"),
    ("POST", "/jobs/{}/restart"),
    ("POST", "/jobs/{}/forget"),
    ("GET", "/calibrate/{}"),
    ("GET", "/calibrate/{}/rows.csv"),
    ("GET", "/calibrate/{}/ablation.csv"),
    ("POST", "/calibrate/{}/delete"),
    ("POST", "/calibrate/{}/competitors"),
    ("POST", "/calibrate/{}/ablation"),
    ("POST", "/calibrate/sets/{}/delete"),
    ("GET", "/calibrate?set={}"),
    ("GET", "/api/v1/map?texts={}"),
    ("GET", "/api/v1/map?calibration={}"),
    ("GET", "/map?calibration={}"),
    ("GET", "/map/calibration/{}"),
    ("GET", "/map?texts={}"),
    ("GET", "/?prompt=a&calibration={}"),
]


def multipart(
    content: bytes, filename: str = "a.csv", *, field: str = "file", before: bytes = b""
) -> bytes:
    """A form of one file, with the boundary ``X``; the file's name is put in as it is."""
    return (
        before
        + f'--X\r\nContent-Disposition: form-data; name="{field}"; filename="'.encode()
        + filename.encode("utf-8", "surrogatepass")
        + b'"\r\nContent-Type: text/csv\r\n\r\n'
        + content
        + b"\r\n--X--\r\n"
    )


def packed(name: str, content: bytes) -> bytes:
    """A ZIP of one file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, content)
    return out.getvalue()


# (what, name of the file, its content)
BAD_FILES: list[tuple[str, str, bytes]] = [
    ("nothing", "a.csv", b""),
    ("white space", "a.csv", b" \r\n\t\n"),
    ("nothing but a byte-order mark", "a.csv", b"\xef\xbb\xbf"),
    ("nothing but a UTF-16 mark", "a.csv", b"\xff\xfe"),
    ("half a character of UTF-16", "a.csv", "text,label\na,b\n".encode("utf-16")[:-1]),
    ("a lone surrogate in UTF-16", "a.csv", b"\xff\xfea\x00,\x00b\x00\n\x00\x00\xd8,\x00c\x00"),
    ("UTF-32", "a.csv", "text,label\na,b\n".encode("utf-32")),
    ("bytes that are no UTF-8", "a.csv", b"text,label\n\xff\xfe,b\n"),
    ("a surrogate in UTF-8's clothes", "a.csv", b"text,label\n\xed\xa0\x80,b\n"),
    ("overlong UTF-8", "a.csv", b"text,label\n\xc0\xaf,b\n"),
    ("NUL", "a.csv", b"text,label\na\x00,b\n"),
    ("only a header", "a.csv", b"text,label\n"),
    ("an empty header", "a.csv", b",\na,b\n"),
    ("a header twice", "a.csv", b"text,text\na,b\n"),
    ("a field of 131,073 characters", "a.csv", b"text,label\n" + b"x" * 131_073 + b",b\n"),
    ("a field of 900,000 characters", "a.csv", b"text,label\n" + b"x" * 900_000 + b",b\n"),
    ("a header of 131,073 characters", "a.csv", b"x" * 131_073 + b",label\na,b\n"),
    ("a header of markup, 5000 characters", "a.csv", b"<b>" * 1700 + b",label\na,b\n"),
    ("an unclosed quote in the header", "a.csv", b'"text,label\na,b\n'),
    ("nothing but quotes", "a.csv", b'"' * 100_001),
    ("rows of other lengths", "a.csv", b"text,label\na\na,b,c\n"),
    ("100,000 columns", "a.csv", b",".join(b"c%d" % i for i in range(100_000)) + b"\n"),
    ("201 columns", "a.csv",
     b",".join(b"c%d" % i for i in range(201)) + b"\n" + b"x," * 200 + b"x"),
    ("a ZIP", "a.csv", packed("a.csv", b"text,label\na,b\n")),
    ("a ZIP with a path inside", "a.csv", packed("../../a.csv", b"text,label\na,b\n")),
    ("a ZIP by its name", "a.zip", packed("a.csv", b"text,label\na,b\n")),
    ("gzip", "a.csv", b"\x1f\x8b\x08\x00" + bytes(range(256))),
    ("a PNG", "a.csv", b"\x89PNG\r\n\x1a\n" + bytes(64)),
    ("a pickle", "a.pkl", b"\x80\x04\x95\x00\x00\x00\x00."),
    ("a page", "a.html", b"<script>alert(1)</script>"),
    ("an SVG", "a.svg", b"<svg onload=alert(1)/>"),
    ("Parquet by its name only", "a.parquet", b"text,label\na,b\n"),
    ("Parquet by its head only", "a.parquet", b"PAR1"),
    ("Parquet with a footer that lies", "a.parquet", b"PAR1" + bytes(64) + b"\xff\xff\xff\x7fPAR1"),
    ("Parquet with a footer of nothing", "a.parquet", b"PAR1" + bytes(4) + b"PAR1"),
    ("Parquet with rubbish for a footer", "a.csv",
     b"PAR1" + bytes(range(256)) + b"\x80\x00\x00\x00PAR1"),
    ("JSON lines of nothing that is an object", "a.jsonl", b"1\n2\nnull\n[]\n"),
    ("JSON lines of NaN", "a.jsonl", b"NaN\nInfinity\n1e999\n"),
    ("JSON lines that are deep", "a.jsonl", b"[" * 50_000 + b"]" * 50_000),
    ("JSON lines of deep objects", "a.jsonl", b'{"text":' * 50_000 + b"1" + b"}" * 50_000),
    ("JSON lines of 5000 digits", "a.jsonl", b'{"text": ' + b"9" * 5000 + b"}\n"),
    ("JSON lines without a cell that is text", "a.jsonl", b'{"text": {"a": 1}, "label": []}\n'),
    ("JSON lines of half a character", "a.jsonl", b'{"text": "\\ud800", "label": "a"}\n'),
    ("JSON lines with half a character in a key", "a.jsonl", b'{"\\udfff": "a", "label": "b"}\n'),
    ("JSON lines that end early", "a.jsonl", b'{"text": "a"\n{"text": "b"\n'),
    ("JSON lines of 300 keys", "a.jsonl",
     json.dumps({f"key{i}": "x" for i in range(300)}).encode()),
    ("JSON lines of a key of 5000 characters", "a.jsonl",
     json.dumps({"k" * 5000: "x", "label": "y"}).encode()),
    ("a JSON list of numbers", "a.json", b"[1, 2, 3]"),
    ("an unknown ending", "a.exe", b"text,label\na,b\n"),
    ("an ending of 5000 characters", "a." + "x" * 5000, b"text,label\na,b\n"),
    ("a name that is a path", "../../etc/passwd.exe", b"text,label\na,b\n"),
    ("a name with markup", "<img src=x onerror=alert(1)>.exe", b"x"),
]  # fmt: skip
FORM = "multipart/form-data; boundary=X"
_GOOD = b"text,label\na,b\n"
# (what, content type, body)
BAD_FORMS: list[tuple[str, str, bytes]] = [
    ("no type", "", multipart(_GOOD)),
    ("another type", "text/csv", _GOOD),
    ("JSON", "application/json", b"{}"),
    ("a form without files", "application/x-www-form-urlencoded", b"file=x"),
    ("no boundary", "multipart/form-data", multipart(_GOOD)),
    ("an empty boundary", "multipart/form-data; boundary=", multipart(_GOOD)),
    ("an empty boundary in quotes", 'multipart/form-data; boundary=""', multipart(_GOOD)),
    ("another boundary", "multipart/form-data; boundary=Y", multipart(_GOOD)),
    ("a boundary of 5000 characters", "multipart/form-data; boundary=" + "Y" * 5000,
     multipart(_GOOD)),
    ("a boundary in quotes that do not end", 'multipart/form-data; boundary="X', b"--X\r\n"),
    ("a mixed type", "multipart/mixed; boundary=X", multipart(_GOOD)),
    ("an empty body", FORM, b""),
    ("nothing but the end", FORM, b"--X--\r\n"),
    ("no end", FORM, multipart(_GOOD)[:-9]),
    ("no end of the headers", FORM, b'--X\r\nContent-Disposition: form-data; name="file"'),
    ("a part without a name", FORM, b"--X\r\nContent-Disposition: form-data\r\n\r\nx\r\n--X--\r\n"),
    ("a part without headers", FORM, b"--X\r\n\r\nx\r\n--X--\r\n"),
    ("a part with a broken header", FORM, b"--X\r\n: : :\r\n\r\nx\r\n--X--\r\n"),
    ("a part with a header of 100,000 characters", FORM,
     b"--X\r\nA: " + b"x" * 100_000 + b"\r\n\r\nx\r\n--X--\r\n"),
    ("a part with 10,000 headers", FORM, b"--X\r\n" + b"A: b\r\n" * 10_000 + b"\r\nx\r\n--X--\r\n"),
    ("base64 that is none", FORM,
     b'--X\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n'
     b"Content-Transfer-Encoding: base64\r\n\r\n!!!\r\n--X--\r\n"),
    ("a file of another field", FORM, multipart(_GOOD, field="other")),
    ("a file that is text", FORM,
     b'--X\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n--X--\r\n'),
    ("a file without a name", FORM, multipart(_GOOD, "")),
    ("two files", FORM, multipart(_GOOD, before=multipart(_GOOD)[:-7] + b"\r\n")),
    ("a hundred fields", FORM, multipart(_GOOD, before=(
        b'--X\r\nContent-Disposition: form-data; name="n"\r\n\r\nx\r\n' * 100))),
    ("a name of 9000 characters", FORM, multipart(_GOOD, before=(
        b'--X\r\nContent-Disposition: form-data; name="name"\r\n\r\n' + b"x" * 9000 + b"\r\n"))),
    *((f"a character set that is none of text: {name}", f"{FORM}; charset={name}", multipart(b""))
      for name in ("undefined", "idna", "punycode", "zlib", "rot13", "nonsense", "utf-7",
                   "raw_unicode_escape", "unicode_escape", "x" * 3000)),
]  # fmt: skip
