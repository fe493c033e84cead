"""How many shards on how many GPUs in, the Serve YAML that deploys them out."""

from collections.abc import Iterable
from typing import Any

import yaml
from pydantic import ValidationError

from semrec_ray.config import AppConfig, reasons
from semrec_ray.errors import ConfigError, InvalidRequest

HEAD = """\
# Written by `{command}`. Every setting under args is in semrec_ray/config.py.
#   set -a; . serve_configs/fast.env; set +a      # on every node, before Ray starts
#   ray start --head                              # and `ray start --address=…` on the others
#   serve deploy THIS_FILE                        # or `serve run` in the foreground
"""


def app_arguments(
    *, shards: int, gpus: float, routers: int, store: str | None, auth: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """Return the `args` of an application; InvalidRequest or ConfigError where they cannot work.

    One shard without a GPU is topology inline: every router holds the catalog. GPUs are shared out evenly: whole ones,
    or several shards on one.
    """
    each = gpus / shards
    if gpus < 0 or (each > 1 and not each.is_integer()) or (0 < each < 1 and not (1 / each).is_integer()):
        raise InvalidRequest(
            f"{gpus:g} GPUs for {shards} shards: give as many GPUs as shards, a multiple of them, or so few that each "
            f"GPU has the same number of shards"
        )
    arguments: dict[str, Any] = {"auth": auth, "topology": "inline" if shards == 1 and not gpus else "sharded"}
    if arguments["topology"] == "sharded":
        arguments |= {"shards": shards, "num_gpus": each}
    arguments |= {"routers": routers, "num_cpus": 1, "log_format": "json"} | settings
    if store is not None:
        arguments["store"] = store
    try:
        AppConfig.model_validate(arguments)
    except ValidationError as error:
        raise ConfigError(f"these settings cannot work: {reasons(error)}") from error
    return arguments


def nested(settings: Iterable[str]) -> dict[str, Any]:
    """Return settings `a.b=value`, the value as YAML has it, as the tree they make; InvalidRequest."""
    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        *above, last = name.split(".")
        if not (equals and last):
            raise InvalidRequest(f"--set {setting}: give NAME=VALUE, such as ranking.diversity=0.2")
        place = found
        try:
            for part in above:
                place = place.setdefault(part, {})
            place[last] = yaml.safe_load(value)
        except (AttributeError, TypeError):
            raise InvalidRequest(
                f"--set {setting}: {'.'.join(above)} has a value already, and no settings below"
            ) from None
        except yaml.YAMLError as error:
            raise InvalidRequest(f"--set {setting}: {value!r} cannot be read as YAML ({error})") from error
    return found


SCALING = {"policy_function": "semrec_ray.serve.scaling:together"}  # beside `args`: it sees all deployments of an app


def serve_yaml(arguments: dict[str, Any], *, port: int, command: str) -> str:
    """Return the whole file, with the commands that use it; it listens on 127.0.0.1 only where nobody needs a key."""
    open_to_all = arguments["auth"].get("mode") == "none"
    config = {
        "proxy_location": "HeadOnly" if open_to_all else "EveryNode",
        "http_options": {"host": "127.0.0.1" if open_to_all else "0.0.0.0", "port": port},
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
        "applications": [
            {
                "name": "semrec",
                "route_prefix": "/",
                "import_path": "semrec_ray.serve.app:build",
                **({"autoscaling_policy": SCALING} if arguments.get("autoscaling") else {}),
                "args": arguments,
            }
        ],
    }
    return HEAD.format(command=command) + yaml.safe_dump(config, sort_keys=False)
