"""A configuration and a store in, findings out: is it valid, complete, and can its texts be embedded."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from semrec_ray.api.keys import Entry, read_keys
from semrec_ray.config import AppConfig, AuthConfig, read_app_config
from semrec_ray.doctor.findings import Finding
from semrec_ray.encode import open_encoder
from semrec_ray.encode.text import PACKAGE
from semrec_ray.errors import ConfigError, SemrecError
from semrec_ray.gates.completeness import check_completeness
from semrec_ray.store.releases import channel_names, read_channel, read_release
from semrec_ray.store.tables import Store
from semrec_ray.store.vectors import read_space
from semrec_ray.types import Release

SOON_S = 7 * 86_400.0  # until the last key of a caller ends
BROAD = ("0.0.0.0", "::", "")
HUB_PREFIX = "sentence-transformers/"  # of a name without a slash
UNREADABLE = (OSError, ValueError, RuntimeError)  # what Lance and Arrow raise for damaged files


@dataclass(frozen=True, slots=True)
class Held:
    """The release that a store would serve, where there is one."""

    release: Release
    model: str | None


def check_config(path: str | None) -> tuple[AppConfig, Finding | None]:
    """Return the settings of a Serve config, or the defaults, and whether the file is valid."""
    plain = AppConfig(auth=AuthConfig(mode="none"))
    if path is None:
        return plain, None
    try:
        config = read_app_config(path)
    except ConfigError as error:
        lines = [line.strip() for line in error.message.splitlines() if "For further information" not in line]
        return plain, Finding("config", "fail", "; ".join(lines), "README, Configure, has every setting")
    parts = f"{config.shards} shards" if config.topology == "sharded" else f"{config.routers} routers"
    return config, Finding("config", "ok", f"{path}: {config.topology}, {parts}, channel {config.channel}")


def look_at_keys(config: AppConfig, host: str, *, haproxy: bool, now: float) -> Finding:
    """Return whether the app asks who calls, and knows somebody who may, or only this machine reaches it."""
    if config.auth.mode == "none":
        return check_nobody_asked(host, haproxy=haproxy)
    try:
        return check_keys(read_keys(config.auth.file), now)
    except ConfigError as error:
        return Finding("keys", "fail", error.message, "on every node with a router: auth.file, or SEMREC_KEYS")


def check_keys(entries: Sequence[Entry], now: float) -> Finding:
    """Return whether every caller has a key that is good for a while."""
    last = {each.caller: max(e.expires.timestamp() for e in entries if e.caller == each.caller) for each in entries}
    gone = [caller for caller, expires in last.items() if expires <= now]
    soon = [caller for caller, expires in last.items() if now < expires <= now + SOON_S]
    fix = "semrec keys new --caller NAME --role ROLE --file FILE, before the old one ends"
    if len(gone) == len(last):
        return Finding("keys", "fail", f"all {len(entries)} have expired", fix)
    if gone or soon:
        named = [f"{caller}: {word}" for word, of in (("expired", gone), ("expires in a week", soon)) for caller in of]
        return Finding("keys", "warn", ", ".join(named), fix)
    return Finding("keys", "ok", f"{len(entries)}, of {', '.join(sorted(last))}")


def check_nobody_asked(host: str, *, haproxy: bool) -> Finding:
    """Return whether an app that asks nobody who they are is reached from this machine only."""
    where = "every interface (HAProxy's)" if haproxy else host or "every interface"
    found = f"auth is none, it listens on {where}"
    if haproxy or host in BROAD:
        return Finding("keys", "warn", found, "auth: {mode: keys} in the config, or a firewall around the port")
    return Finding("keys", "ok", found)


def check_store(store: Store, channel: str, *, whole: bool) -> tuple[Held | None, Finding]:
    """Return the release that a channel points at, and whether it is complete (`whole`: every vector is read)."""
    try:
        pointed = read_channel(store, channel)
        if pointed is None:
            others = ", ".join(channel_names(store)) or "none"
            found = f"{store.uri}: channel {channel!r} points at no release; channels: {others}"
            return None, Finding("store", "fail", found, "semrec import, embed, publish; or --store where it is")
        release = read_release(store, pointed.release)
        held = Held(release, read_space(store, release.space).model)
        if whole:
            check_completeness(store, release, None, 100.0)
    except SemrecError as error:
        return None, Finding("store", "fail", error.message, "semrec rollback to a release before; import, publish")
    except UNREADABLE as error:
        reason = str(error).splitlines()[0][:300]
        fix = "semrec rollback to a release before, or restore the files"
        return None, Finding("store", "fail", f"{store.uri} is damaged: {reason}", fix)
    said = f"release {release.name}: {release.items:,} items, {release.dims} dimensions, space {release.space}"
    return held, Finding("store", "ok", said + (", complete" if whole else ""))


def check_model(model: str | None) -> Finding:
    """Return whether a model loads and embeds with what is on this machine, without the network."""
    if model is None:
        return Finding("model", "ok", "none: the vectors came with the items (texts cannot be asked for)")
    try:
        source = _on_this_machine(model)
        dims = open_encoder(source, device="cpu").encode_texts(["a tunnel into a bank"]).shape[1]
    except ConfigError as error:
        return Finding("model", "fail", error.message, _how_to_get(model))
    where = "an installed package" if model.startswith(PACKAGE) else source
    return Finding("model", "ok", f"{model}: {dims} dimensions, from {where}, without the network")


def _on_this_machine(model: str) -> str:
    """Return a package or a folder to load a model from; ConfigError where it would have to be fetched."""
    if model.startswith(PACKAGE) or Path(model).is_dir():
        return model
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    name = model if "/" in model else HUB_PREFIX + model
    try:
        return str(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        raise ConfigError(f"the model {model!r} is no folder, and not in this machine's cache of the hub") from None


def _how_to_get(model: str) -> str:
    if model.startswith(PACKAGE):
        return f"pip install {model.removeprefix(PACKAGE).replace('_', '-')}"
    return f"once, with the network: hf download {model}; or model: /a/folder, on every node"


def created(release: Release) -> float:
    """Return when a release was made, in epoch seconds."""
    made = datetime.fromisoformat(release.created)
    return (made if made.tzinfo else made.replace(tzinfo=UTC)).timestamp()
