"""Every knob of the app; the only place that reads the environment.

A setting is read from ``LEXISCOPE_<NAME>``, once, when the app starts; options of the command line
come before it. Nothing changes afterwards.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PROMPT_CEILING = 32_000
"""Characters. Tokenizing is slow before the model is asked at all, so no setting goes above."""
TOKEN_CEILING = 8_192
"""Tokens of one prompt."""
NEW_TOKEN_CEILING = 2_048
"""Tokens by which one text goes on."""
K_CEILING = 50
"""Nearest tokens per cell."""


class Settings(BaseSettings):
    """What the operator may set."""

    model_config = SettingsConfigDict(
        env_prefix="LEXISCOPE_",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    model: str | None = Field(None, description="A folder, a GGUF file, "
        "hub:ID@COMMIT:FILE.gguf, a Hugging Face id, smollm2 or lexiscope-small; unset: smollm2 "
        "where its package is installed, else lexiscope-small.")  # fmt: skip
    revision: str | None = Field(None, description="The model's revision on the hub: a commit, "
        "tag or branch; unset: the newest.")  # fmt: skip
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where it runs.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="The type of the weights; auto: what the device does well."
    )
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads of the computation; "
        "unset: one less than the machine has cores.")  # fmt: skip
    trust_remote_code: bool = Field(False, description="Whether a model may run its own Python "
        "code. That is the author's code with your rights.")  # fmt: skip
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = Field(
        None, description="How a model is spread over several GPUs, by the package accelerate; "
        "unset: it lies on one device."
    )  # fmt: skip
    models: Annotated[tuple[str, ...], NoDecode] = Field((), description="Further models that the "
        "page Model offers to open, separated by commas: NAME=FOLDER, NAME=FILE.gguf, "
        "NAME=smollm2, NAME=HUB_ID@COMMIT or NAME=hub:HUB_ID@COMMIT:FILE.gguf.")  # fmt: skip
    one_model_at_a_time: bool = Field(False, description="Let go of the open model before another "
        "is loaded: less memory, and nobody is served meanwhile.")  # fmt: skip
    offline: bool = Field(False, description="Never ask the hub; only what is on this machine.")
    cache_dir: Path | None = Field(None, description="Folder for semantic bases kept on disk; "
        "unset: the user's cache folder.")  # fmt: skip
    data_dir: Path | None = Field(None, description="Folder for what is saved: label sets, "
        "calibrations, jobs; unset: the user's data folder. One server at a time uses it."
        )  # fmt: skip

    host: str = Field("127.0.0.1", min_length=1, max_length=255,
        description="The address to listen on.")  # fmt: skip
    port: int = Field(8000, ge=0, le=65_535, description="The port; 0: any free one.")
    root_path: str = Field("", max_length=255, description="The path under which a proxy serves "
        "the app, without a slash at the end: /lexiscope.")  # fmt: skip
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field((), description="Further names, "
        "separated by commas, under which the app may be asked for (the Host header), besides "
        "localhost, 127.0.0.1, [::1] and the address it listens on.")  # fmt: skip
    token: SecretStr | None = Field(None, description="The secret that every request must show, "
        "at least 22 characters; needed on any address but this machine's own.")  # fmt: skip
    proxies: Annotated[tuple[str, ...], NoDecode] = Field((), description="Addresses or networks "
        "of reverse proxies, separated by commas, whose X-Forwarded-For and X-Forwarded-Proto are "
        "believed; unset: nobody's.")  # fmt: skip
    no_auth: bool = Field(False, description="Serve beyond this machine without a token: "
        "everyone who can reach the address can use the model.")  # fmt: skip

    max_characters: int = Field(PROMPT_CEILING, ge=1, le=PROMPT_CEILING,
        description="Characters of a prompt.")  # fmt: skip
    max_tokens: int = Field(1024, ge=1, le=TOKEN_CEILING, description="Tokens of a prompt.")
    max_new_tokens: int = Field(256, ge=1, le=NEW_TOKEN_CEILING, description="Tokens by which a "
        "text may go on at once.")  # fmt: skip
    max_k: int = Field(K_CEILING, ge=1, le=K_CEILING, description="Nearest tokens per cell.")
    memory_budget_mib: int = Field(512, ge=16, le=1_048_576, description="MiB for the states "
        "of one prompt; half of it for the temporaries of one reading.")  # fmt: skip
    state_cache_mib: int = Field(256, ge=0, le=1_048_576, description="MiB of hidden states kept "
        "of earlier prompts: another reading of one needs no run of the model.")  # fmt: skip
    result_cache_mib: int = Field(128, ge=0, le=1_048_576, description="MiB of results kept for "
        "the next time they are asked for.")  # fmt: skip
    queue_places: int = Field(16, ge=1, le=1024, description="Requests that may wait for the "
        "model; one more is answered 503.")  # fmt: skip
    client_places: int | None = Field(None, ge=0, le=1024, description="Requests that one address "
        "may have waiting or running, and as many jobs and uploads, 0: no limit of its own; "
        "unset: 4, and no limit for this machine's own addresses.")  # fmt: skip
    deadline_s: float = Field(60.0, gt=0, le=3600, description="Seconds until a request is "
        "stopped and answered 504.")  # fmt: skip
    connections: int = Field(1024, ge=8, le=65_535, description="Open connections; beyond it the "
        "one that is idle for longest gives way, and where none is idle a new one is answered 503."
        )  # fmt: skip
    client_connections: int | None = Field(None, ge=0, le=65_535, description="Open connections "
        "of one address, 0: no limit of its own; unset: a quarter of all, and no limit for this "
        "machine's own addresses or behind a proxy that is named.")  # fmt: skip
    head_deadline_s: float = Field(10.0, gt=0, le=600, description="Seconds in which a request's "
        "head must have arrived on a new connection; later it is closed.")  # fmt: skip
    send_deadline_s: float = Field(60.0, gt=0, le=3600, description="Seconds in which a client "
        "must take something of an answer; later the connection is closed.")  # fmt: skip
    body_limit: int = Field(1_000_000, ge=1024, le=50_000_000, description="Bytes of a request's "
        "body; more is answered 413.")  # fmt: skip
    body_deadline_s: float = Field(10.0, gt=0, le=600, description="Seconds in which a request's "
        "body must have arrived; later is answered 408.")  # fmt: skip
    upload_limit: int = Field(50_000_000, ge=1024, le=1_000_000_000, description="Bytes of an "
        "uploaded label set; more is answered 413.")  # fmt: skip
    upload_deadline_s: float = Field(60.0, gt=0, le=3600, description="Seconds in which an upload "
        "must have arrived, and in which it must be read.")  # fmt: skip
    upload_rows: int = Field(200_000, ge=1, le=1_000_000, description="Rows of an uploaded label "
        "set; the rest is left out, and the page says so.")  # fmt: skip
    upload_memory_mib: int = Field(2048, ge=128, le=65_536, description="MiB that reading an "
        "uploaded label set may take, in a process of its own.")  # fmt: skip
    job_places: int = Field(8, ge=1, le=100, description="Jobs that may wait, besides the one "
        "that runs; one more is answered 503.")  # fmt: skip
    disk_reserve_mib: int = Field(256, ge=0, le=1_048_576, description="MiB of the data folder's "
        "disk that stay free; below, nothing is saved (507).")  # fmt: skip
    history_mib: int = Field(256, ge=0, le=1_048_576, description="MiB of runs that pages showed, "
        "kept in the data folder for the page History; the oldest go first, 0: none is kept."
        )  # fmt: skip
    checkpoint_s: float = Field(30.0, ge=0, le=3600, description="Seconds between two checkpoints "
        "of a job that trains; after an interruption it goes on from the last.")  # fmt: skip
    heartbeat_limit_s: float = Field(30.0, gt=0, le=3600, description="Seconds without a sign of "
        "life of the computing thread until /readyz says 503.")  # fmt: skip
    hang_exit_s: float = Field(120.0, ge=0, le=86_400, description="Seconds without a sign of life "
        "of the computing thread until the server ends itself with status 70, so that what "
        "supervises it starts it anew; 0: never.")  # fmt: skip
    step_patience_s: float = Field(600.0, ge=0, le=86_400, description="Seconds that one step of a "
        "job may take before it counts as without a sign of life: within a step there is none. A "
        "step of a small model takes less than one; a large one on a slow machine takes minutes."
        )  # fmt: skip
    fit_lens: bool = Field(True, description="Fit the linear lens of the open model by itself, in "
        "the background while nothing else is wanted, and keep it in the cache.")  # fmt: skip
    make_atlas: bool = Field(True, description="Lay out the atlas (a UMAP of all bases) of the "
        "open model by itself, in the background while nothing else is wanted, and keep it in the "
        "cache.")  # fmt: skip
    story: Path | None = Field(None, description="A story's file, TOML or JSON, that can be told "
        "beside those that ship.")  # fmt: skip
    log_messages: bool = Field(False, description="Write the messages of unforeseen errors to the "
        "log as well; they may repeat what people typed.")  # fmt: skip

    @field_validator("allowed_hosts", "models", "proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any("*" in name or "/" in name for name in value):
            raise ValueError("each allowed host is a full name, without wildcard or scheme")
        return tuple(name.lower() for name in value)

    @field_validator("root_path")
    @classmethod
    def _root(cls, value: str) -> str:
        value = value.rstrip("/")
        if value and not value.startswith("/"):
            raise ValueError("the root path begins with a slash, as in /lexiscope")
        return value

    @field_validator("token")
    @classmethod
    def _long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 22:
            raise ValueError(
                "the token has at least 22 characters; python -c "
                '"import secrets; print(secrets.token_urlsafe(32))" makes a good one'
            )
        return value

    @model_validator(mode="after")
    def _guarded(self) -> Settings:
        if not self.is_local and self.token is None and not self.no_auth:
            raise ValueError(
                f"{self.host} can be reached from other machines: set LEXISCOPE_TOKEN to a secret "
                "of at least 22 characters, or write --no-auth to let everyone in"
            )
        return self

    @classmethod
    def unknown(cls) -> tuple[str, ...]:
        """Variables of the environment that look like settings and are none, such as typing errors.

        Those of the tests, ``LEXISCOPE_TEST_…``, are left out.
        """
        known = {f"LEXISCOPE_{name.upper()}" for name in cls.model_fields}
        given = (name for name in os.environ if name.upper().startswith("LEXISCOPE_"))
        return tuple(
            name for name in sorted(given)
            if name.upper() not in known and not name.upper().startswith("LEXISCOPE_TEST_")
        )  # fmt: skip

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def hosts(self) -> frozenset[str]:
        """The names that a Host header may carry, in lower case, IPv6 in brackets."""
        own = self.host.lower().strip("[]")
        bound = {f"[{own}]" if ":" in own else own} - {"0.0.0.0", "[::]"}  # nosec B104
        return frozenset({"localhost", "127.0.0.1", "[::1]", *bound, *self.allowed_hosts})

    @property
    def data_folder(self) -> Path:
        """Where what is saved lies: the setting, or the user's data folder."""
        if self.data_dir is not None:
            return self.data_dir.expanduser()
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Application Support"
        else:
            base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
        return base / "lexiscope"

    @property
    def notice(self) -> str | None:
        """A sentence that stands on each page, or None."""
        if self.is_local or self.token is not None:
            return None
        return "This server asks nobody who they are: everyone who can reach it can use it."
