"""``pacplus-device``: the command line on a device. argparse only, so that it starts fast."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import platform
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_runtime import __version__
from edge_runtime.contract.errors import BadInputError, PacplusError, UserError
from edge_runtime.contract.os_errors import describe_os_error
from edge_runtime.contract.structure import to_plain
from edge_runtime.system import usage
from edge_runtime.system.allocator import tune_allocator

from .limits import parse_celsius, parse_charge, watch_condition

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    options = _parser().parse_args(arguments)
    level = logging.DEBUG if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        code: int = options.run(options)
    except PacplusError as error:
        print(f"pacplus-device: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, UserError) else 1
    except OSError as error:
        if (said := describe_os_error(error)) is None:
            raise
        print(f"pacplus-device: {said}", file=sys.stderr)
        return BadInputError.exit_code
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pacplus-device",
        description="Lends this device to a fine-tuning that a paired laptop coordinates.",
        epilog="Example: pacplus-device pair 192.168.1.5:7700 pacplus1-... && pacplus-device start",
    )
    parser.add_argument("--version", action="version", version=f"pacplus {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    pair = _command(commands, "pair", _pair, "Pair this device with a coordinator, once.")
    pair.epilog = "Example: pacplus-device pair 192.168.1.5:7700 pacplus1-abcd..."
    pair.add_argument("address", metavar="ADDRESS", help="HOST:PORT that `pacplus pair` shows")
    pair.add_argument("token", metavar="TOKEN", help="the one-time token that it shows")
    pair.add_argument("--name", default=socket.gethostname(), help="what to be called there")
    pair.add_argument(
        "--new-key",
        action="store_true",
        help="replace this device's key: where its folder was copied from another device",
    )

    start = _command(commands, "start", _start, "Wait for work from the paired coordinator.")
    start.epilog = "Example: pacplus-device start --min-battery 30% --max-temperature 80"
    start.add_argument("--coordinator", metavar="ADDRESS", help="its address, if it has moved")
    start.add_argument("--listen", metavar="HOST", help="interface that peers connect to")
    start.add_argument("--threads", type=int, help="threads to compute with (default: all cores)")
    start.add_argument("--no-train", action="store_true", help="do not train adapters; use them")
    start.add_argument(
        "--min-battery",
        type=parse_charge,
        metavar="PERCENT",
        help="below it, unless on a charger, do not join, or ask to be relieved of the work; "
        "0%% for no limit (default: 20%%). Example: --min-battery 30%%",
    )
    start.add_argument(
        "--max-temperature",
        type=parse_celsius,
        metavar="CELSIUS",
        help="the same above this temperature of the processor (default: no limit, since it "
        "slows itself down). Example: --max-temperature 80",
    )
    start.add_argument(
        "--cache-passphrase-file",
        metavar="FILE",
        type=Path,
        help="encrypted caches are opened with this passphrase, not with a key that is stored "
        "(or set PACPLUS_CACHE_PASSPHRASE)",
    )
    start.add_argument("--once", action="store_true", help="end after one session")
    start.add_argument("--pair", metavar="ADDRESS", help=argparse.SUPPRESS)
    start.add_argument("--name", help=argparse.SUPPRESS)
    start.add_argument("--condition", type=Path, help=argparse.SUPPRESS)
    start.add_argument("--trains", action="store_true", help=argparse.SUPPRESS)

    info = _command(commands, "info", _info, "Show what this device can do and who it trusts.")
    info.epilog = "Example: pacplus-device info --json"
    cache = _command(commands, "cache", _cache, "Show or remove cached activations.")
    cache.epilog = "Example: pacplus-device cache --remove 3f2a..."
    cache.add_argument("--remove", metavar="DIGEST", help="remove the caches of this backbone")
    return parser


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--verbose", action="store_true", help="log everything to stderr")
    parser.add_argument(
        "--home", type=Path, help="folder for keys and caches (default: $PACPLUS_HOME/device)"
    )
    parser.set_defaults(run=run)
    return parser


def _home(options: argparse.Namespace) -> Path:
    from edge_runtime.transport.files import make_private_directory
    from edge_runtime.transport.home import home_directory

    home: Path = options.home or home_directory() / "device"
    make_private_directory(home)
    return home


def _pair(options: argparse.Namespace) -> int:
    home = _home(options)
    paired = _pair_with(home, options.address, options.token, options.name, new_key=options.new_key)
    if options.json:
        _print(to_plain(paired))
    else:
        print(f"paired as {paired.device_id}; now run: pacplus-device start")
    return 0


def _pair_with(home: Path, address: str, token: str, name: str, *, new_key: bool = False) -> Any:
    """Pairs, and remembers the coordinator."""
    from edge_runtime import transport

    path = home / "keypair.json"
    keypair = transport.KeyPair.generate() if new_key else transport.load_or_create_keypair(path)
    where, secret = transport.Address.parse(address), transport.PairingToken.parse(token)
    with transport.SecureContext() as context:
        pairing = transport.pair(context, keypair, address=where, token=secret, name=name)
    if new_key:
        transport.replace_keypair(path, keypair)
    known = transport.KnownCoordinator(
        address=str(pairing.coordinator_address),
        public_key=pairing.coordinator_key,
        device_id=pairing.device_id,
        others=tuple(map(str, pairing.other_addresses)),
    )
    transport.KnownCoordinators(home / "coordinators.json").add(known)
    return known


def _start(options: argparse.Namespace) -> int:
    from edge_runtime.cache.keys import CacheKeys, read_passphrase
    from edge_runtime.inference.session import keep_choice_in
    from edge_runtime.system.deferred_imports import defer_compiler_of_pytorch
    from edge_runtime.training.engine_ahead import import_engine_ahead
    from edge_runtime.transport import KnownCoordinators, home_directory

    # Before it pairs: from there on an emulated device is held to its CPU quota.
    from .sessions import Sessions

    signal.signal(signal.SIGTERM, _stop)
    tune_allocator()
    defer_compiler_of_pytorch()
    keep_choice_in(home_directory)
    if options.threads is not None and options.threads < 1:
        raise BadInputError("--threads must be at least 1")
    if options.trains:
        import_engine_ahead()
    told = _told(options.pair) if options.pair else None
    home = _home(options)
    if told is not None:
        _pair_with(home, *told, options.name or socket.gethostname())
    known = KnownCoordinators(home / "coordinators.json").latest()
    if known is None:
        raise BadInputError(
            "this device is not paired; run `pacplus pair` on the laptop, "
            "and type here what it shows"
        )
    if options.coordinator:
        known = dataclasses.replace(known, address=options.coordinator)
    cache_keys = CacheKeys(home, read_passphrase(options.cache_passphrase_file))
    watch = watch_condition(options.min_battery, options.max_temperature, options.condition)
    roles = _roles(options.no_train)
    return Sessions(options, home, known, roles=roles, cache_keys=cache_keys, watch=watch).run()


def _told(address: str) -> tuple[str, str]:
    """Hears address and token of the pairing.

    The token comes on standard input: arguments are readable by other users. The address comes
    before it where this process was started before there was one.
    """
    words = sys.stdin.readline().split()
    if not words:
        raise BadInputError("the command that started this device is over")
    return words[0] if words[1:] else address, words[-1]


def _roles(no_train: bool) -> tuple[Any, ...]:
    from edge_runtime.parallel_adapters import is_available

    trains = not no_train and is_available()
    return ("backbone", "trainer") if trains else ("backbone",)


def _info(options: argparse.Namespace) -> int:
    from edge_runtime.inference.session import keep_choice_in, numerics
    from edge_runtime.transport import (
        KnownCoordinators,
        fingerprint,
        home_directory,
        load_or_create_keypair,
    )

    from .condition import read_sensors

    keep_choice_in(home_directory)
    home = _home(options)
    keypair = load_or_create_keypair(home / "keypair.json")
    facts = {
        "version": __version__,
        "machine": platform.machine(),
        "home": str(home),
        "key": fingerprint(keypair.public),
        "roles": list(_roles(False)),
        "numerics": str(numerics()),
        "threads": usage.usable_threads(),
        "cores": usage.usable_cores(),
        "memory_bytes": usage.usable_memory_bytes(),
        "storage_bytes": usage.free_storage_bytes(home),
        **dataclasses.asdict(read_sensors()),
        "coordinators": [
            {"address": known.address, "key": fingerprint(known.public_key)}
            for known in KnownCoordinators(home / "coordinators.json")
        ],
    }
    if options.json:
        _print(facts)
    else:
        for name, value in facts.items():
            print(f"{name:14} {value}")
    return 0


def _cache(options: argparse.Namespace) -> int:
    from edge_runtime.cache.inspect import describe, remove

    root = _home(options) / "cache"
    removed = remove(root, options.remove) if options.remove else 0
    caches = [to_plain(cache) for cache in describe(root)]
    if options.json:
        _print({"removed": removed, "caches": caches})
        return 0
    if options.remove:
        print(f"removed {removed} caches")
    for cache in caches:
        print(" ".join(f"{name}={value}" for name, value in cache.items()))
    if not caches:
        print("no activations are cached here")
    return 0


def _stop(*_: object) -> None:
    raise SystemExit(0)


def _print(value: Any) -> None:
    print(json.dumps(value, default=str))


if __name__ == "__main__":
    sys.exit(main())
