"""Known holes in what ships (pip-audit) and in our own code (bandit)."""

from __future__ import annotations

import json
import subprocess
import sys

from bench.report import Goal, Section
from bench.soak.server import ROOT

OURS = ("app", "engine")


def audit(minutes: float | None) -> Section:
    """The table; where the lists of holes cannot be reached it says so instead."""
    section = Section(
        "audit: known holes",
        "The packages of this environment against the advisories of PyPI and OSV; our own code"
        " against bandit's rules. A finding that is no hole carries `# nosec` and its reason.",
        ("what", "looked at", "found"),
    )
    packages(section)
    code(section)
    return section


def packages(section: Section) -> None:
    """Add what pip-audit says."""
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--skip-editable", "--format", "json",
         "--progress-spinner", "off", "--timeout", "30"],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        section.add("pip-audit", "0", "not tried")
        reason = (done.stderr.strip().splitlines() or ["nothing was said"])[-1][:200]
        section.notes.append(f"the advisories could not be reached, so nothing is known: {reason}")
        return
    looked = [one for one in found if "skip_reason" not in one]
    left = len(found) - len(looked)
    holes = [(one["name"], one["version"], hole) for one in looked for hole in one["vulns"]]
    if not looked:  # pip-audit itself would say that no hole is known
        section.add("pip-audit", "0 packages", "not tried")
        section.notes.append(
            f"the advisories could not be reached for any of {left} packages, so nothing is known"
        )
        return
    section.add("pip-audit", f"{len(looked)} packages", str(len(holes)))
    section.notes += [
        f"{name} {version}: {hole['id']}, mended in {', '.join(hole['fix_versions']) or 'nothing'}"
        for name, version, hole in holes
    ]
    if left:
        section.notes.append(f"{left} packages could not be looked up")
    section.goals.append(Goal("known holes in packages", len(holes), 0))


def code(section: Section) -> None:
    """Add what bandit says."""
    done = subprocess.run(
        [sys.executable, "-m", "bandit", "-q", "-r", *OURS, "-c", "pyproject.toml", "-f", "json"],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    found = json.loads(done.stdout)
    lines = sum(one["loc"] for name, one in found["metrics"].items() if name != "_totals")
    section.add("bandit", f"{lines:,} lines", str(len(found["results"])))
    section.notes += [
        f"{one['filename']}:{one['line_number']}: {one['test_id']} {one['issue_text']}"
        for one in found["results"]
    ]
    section.goals.append(Goal("findings in our code", len(found["results"]), 0))


def main() -> int:
    """`make audit`: print it; the exit status says whether anything was found."""
    section = audit(None)
    print(section.text())
    return 0 if all(goal.met for goal in section.goals) else 1


if __name__ == "__main__":
    sys.exit(main())
