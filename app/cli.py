"""The command line. Nothing heavy is imported until a command needs it.

Exit status: 0 good; 1 an expectation or a gate did not hold, or Ctrl-C cut it short; 2 unusable input or machine.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import ConfigError, explain

if TYPE_CHECKING:
    from app.config import Config

Command = Callable[[argparse.Namespace], int]

_BENCHES = {
    "capsule": "app.bench.capsule",
    "decode": "app.bench.decode",
    "prefill": "app.bench.prefill",
    "turn": "app.bench.turn",
    "barge-in": "app.bench.barge_in",
    "echo": "app.bench.echo",
}
"""Benchmarks by name, and the module whose `run(config, report)` measures."""
_BENCH_OPTIONS = {"lengths": "capsule", "room": "barge-in", "seconds": "echo"}
"""What a benchmark can be told besides, by the argument of its `run`."""

_EXAMPLES = """examples:
  backtalk                                     talk, with microphone and loudspeaker; Ctrl-C ends it
  backtalk demo --record demo.wav              hear what it does, without a sound card
  backtalk models pull smollm2-360m            fetch a larger language model
  backtalk --llm smollm2-360m                  and talk to it
  backtalk replay tests/dialogues/*.yaml --clock virtual
  backtalk headless --record talk.wav --events talk.jsonl
  backtalk replay talk.jsonl                   decide it all again: does it come to the same?
  backtalk doctor                              what works on this machine, and what to do about the rest

A model NAME is one of `backtalk models list`, a local path (a GGUF file, a directory with safetensors, a CTranslate2
directory, a Piper .onnx), or hf:OWNER/REPO.
"""

_REPLAY_EXAMPLES = """examples:
  backtalk replay dialogue.yaml --clock stopped --room kitchen --record OUT.wav
  backtalk replay OUT.wav                      latencies, overlaps and holes, from the sound alone
  backtalk replay dialogue.yaml --clock virtual --events E.jsonl
  backtalk replay E.jsonl                      exit status 1 at the first decision that is another today

Rooms are laptop, living, kitchen and speakerphone.
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: Arguments without the program's name; those of the process if None.

    Returns:
        The exit status.
    """
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as ended:  # argparse has said why
        return ended.code if isinstance(ended.code, int) else 2
    command: Command = arguments.run
    try:
        _start_log(arguments)
        status = command(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("backtalk: interrupted", file=sys.stderr)
        return 0 if command in (_talk, _headless) else 1
    except BrokenPipeError:
        # Whoever read our output has gone: nothing is left to say, not even by the interpreter as it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        told = explain(error)
        if told is None:
            raise  # a bug of ours, which deserves its traceback
        print(told, file=sys.stderr)
        return 2


def _common() -> argparse.ArgumentParser:
    """Options that may stand before or after the command. SUPPRESS: absent ones don't overwrite those before it."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = common.add_argument_group("common options")
    group.add_argument("--config", type=Path, metavar="FILE.toml", help="read this configuration instead of the user's")
    group.add_argument("--llm", metavar="NAME", help="language model")
    group.add_argument("--asr", metavar="NAME", help="recogniser")
    group.add_argument("--voice", metavar="NAME", help="voice of the assistant")
    group.add_argument("--device", choices=("cpu", "cuda", "auto"), help="where the language model runs")
    group.add_argument(
        "--mode", choices=("duplex", "headset", "half", "ptt"), help="how microphone and loudspeaker share the air"
    )
    group.add_argument("--offline", action="store_true", help="never fetch anything")
    group.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="detail of the log on stderr")
    return common


def parser() -> argparse.ArgumentParser:
    """The whole command line: `run` of what it parses carries the command out."""
    common = _common()
    whole = argparse.ArgumentParser(
        prog="backtalk",
        description="A voice assistant you can talk over. Without a command: talk, in this terminal.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    whole.set_defaults(run=_talk)
    commands = whole.add_subparsers(title="commands", metavar="COMMAND")

    def add(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, parents=[common])
        command.set_defaults(run=run)
        return command

    headless = add("headless", _headless, "talk without a screen: a line a turn, until Ctrl-C or SIGTERM")
    headless.add_argument("--json", action="store_true", help="one event a line on stdout")
    headless.add_argument("--record", type=Path, metavar="OUT.wav", help="stereo: left microphone, right loudspeaker")
    headless.add_argument("--events", type=Path, metavar="E.jsonl", help="the event log, which `replay` takes")
    demo = add("demo", _demo, "a scripted dialogue with a barge-in through the real models; needs no sound card")
    demo.add_argument("--record", type=Path, metavar="OUT.wav", help="stereo: left the user, right the assistant")
    demo.add_argument("--report", type=Path, metavar="R.json", help="turns, latencies and interruptions")
    _add_replay(add("replay", _replay, "run dialogue scripts, decide a log again, or score a recording"))
    models = add("models", _models, "list, fetch and check models")
    actions = ("list", "pull", "path", "verify", "recommend")
    models.add_argument("action", nargs="?", choices=actions, default="list", help="default: list")
    models.add_argument("names", nargs="*", metavar="NAME", help="models; none: those configured, or all that are here")
    devices = add("devices", _devices, "list sound devices and mark the defaults")
    devices.add_argument("--test", action="store_true", help="play a tone, and show the level of the microphone")
    doctor = add("doctor", _doctor, "what works on this machine, and what to do about the rest")
    doctor.add_argument("--json", action="store_true", help="the findings as JSON")
    doctor.add_argument(
        "--sound", action="store_true", help="play a sweep and speech, and measure the echo: it is loud"
    )
    config = add("config", _config, "show the configuration in force, where it lies, or check a file")
    config.add_argument("action", nargs="?", choices=("show", "path", "check"), default="show", help="default: show")
    config.add_argument("file", nargs="?", type=Path, metavar="FILE", help="for check")
    _add_capsule(add("capsule", _capsule, "look into the file of a capsule, or compare what two were made with"))
    bench = add("bench", _bench, "measure, for example: backtalk bench capsule --json R.json")
    bench.add_argument("name", metavar="NAME", help="one of: " + ", ".join(_BENCHES))
    bench.add_argument("--room", metavar="NAME", help="barge-in: over a loudspeaker in this room, not over headphones")
    bench.add_argument("--seconds", type=int, metavar="N", help="echo: playback in each room, instead of 30 minutes")
    bench.add_argument("--lengths", type=_lengths, metavar="N,N", help="capsule: tokens of the texts it measures")
    verify = add("verify", _verify, "the engine's exactness gates, on this machine")
    for measured in (bench, verify):
        measured.add_argument("--model", metavar="M", help="a language model, instead of the configured one")
        measured.add_argument("--json", type=Path, metavar="R.json", help="write the report here")
    return whole


def _add_replay(replay: argparse.ArgumentParser) -> None:
    replay.formatter_class, replay.epilog = argparse.RawDescriptionHelpFormatter, _REPLAY_EXAMPLES
    replay.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="scripts (YAML), event logs (.jsonl) or recordings (.wav)"
    )
    scripts = replay.add_argument_group("for scripts")
    scripts.add_argument(
        "--clock",
        choices=("wall", "stopped", "virtual"),
        help="wall: real models, at the speed of speech (default); stopped: real models, and time stands still while "
        "they compute; virtual: scripted parts",
    )
    scripts.add_argument(
        "--compute",
        choices=("free", "measured"),
        help="with --clock stopped: computing takes no time (default), or as much as it really took",
    )
    scripts.add_argument("--room", dest="room_name", metavar="NAME", help="let the microphone hear the loudspeaker")
    scripts.add_argument("--echo-db", type=float, metavar="DB", help="how loud, instead of the room's own level")
    scripts.add_argument("--report", type=Path, metavar="R.json", help="one object a script")
    scripts.add_argument("--events", type=Path, metavar="E.jsonl", help="the event log")
    scripts.add_argument("--record", type=Path, metavar="OUT.wav", help="stereo: left the user, right the assistant")
    scripts.add_argument("--seed", type=int, metavar="N", help="instead of the script's")


def _add_capsule(capsule: argparse.ArgumentParser) -> None:
    capsule.add_argument("action", choices=("show", "diff"), help="show: what is in it; diff: exit status 1 if others")
    capsule.add_argument("file", type=Path, metavar="FILE", help="a capsule")
    capsule.add_argument(
        "other", nargs="?", type=Path, metavar="OTHER", help="for diff: another one; none: the configured model, here"
    )


def _lengths(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} are no numbers of tokens, such as 256,1024")
    return tuple(map(int, parts))


def _start_log(arguments: argparse.Namespace) -> None:
    if "log_level" in arguments:
        import logging

        logging.basicConfig(level=arguments.log_level.upper(), stream=sys.stderr, format="%(levelname)s %(message)s")


def _configured(arguments: argparse.Namespace) -> Config:
    """The configuration file with the options that were typed laid over it."""
    from app import config

    typed = vars(arguments)
    models = {key: typed[key] for key in ("llm", "asr", "voice") if key in typed}
    if typed.get("model"):
        models["llm"] = typed["model"]
    table: dict[str, object] = {"models": models}
    if "device" in typed:
        table["llm"] = {"device": typed["device"]}
    if "mode" in typed:
        table["audio"] = {"mode": typed["mode"]}
    if "offline" in typed:
        table["offline"] = True
    return config.parse(table, "the command line", base=config.load(typed.get("config")))


def _talk(arguments: argparse.Namespace) -> int:
    # The screen sits above app, and app never imports it: it is looked up by name, as a plug-in would be.
    screen = importlib.import_module("tui.lines")
    status: int = screen.main(_configured(arguments))
    return status


def _headless(arguments: argparse.Namespace) -> int:
    from app import headless

    return headless.main(
        _configured(arguments),
        sys.stdout,
        as_json=arguments.json,
        record=arguments.record,
        events=arguments.events,
    )


def _demo(arguments: argparse.Namespace) -> int:
    from app.replay import runner

    return runner.demo(record=arguments.record, report=arguments.report, config=_configured(arguments))


def _replay(arguments: argparse.Namespace) -> int:
    from app.replay import command

    options = command.Options(*(getattr(arguments, name) for name in command.Options._fields))
    return command.run(arguments.files, _configured(arguments), options)


def _models(arguments: argparse.Namespace) -> int:
    from app import models_command

    return models_command.run(arguments.action, arguments.names, _configured(arguments))


def _devices(arguments: argparse.Namespace) -> int:
    from app import devices

    return devices.print_devices(test=arguments.test)


def _doctor(arguments: argparse.Namespace) -> int:
    from app import doctor

    return doctor.main(_configured(arguments), sys.stdout, as_json=arguments.json, sound=arguments.sound)


def _config(arguments: argparse.Namespace) -> int:
    from app import config

    if arguments.action == "path":
        print(getattr(arguments, "config", None) or config.default_path())
    elif arguments.action == "show":
        print(config.as_toml(_configured(arguments)), end="")
    elif arguments.file is None:
        raise ConfigError("there is nothing to check", "no file was named", "backtalk config check FILE.toml")
    else:
        config.load(arguments.file)
        print(f"{arguments.file}: good")
    return 0


def _capsule(arguments: argparse.Namespace) -> int:
    from app import capsules

    if arguments.action == "diff":
        return capsules.diff(arguments.file, arguments.other, _configured(arguments))
    return capsules.show(arguments.file)


def _bench(arguments: argparse.Namespace) -> int:
    module = _BENCHES.get(arguments.name)
    if module is None:
        raise ConfigError(
            f"there is no benchmark {arguments.name}",
            f"this build has: {', '.join(_BENCHES)}",
            "backtalk bench capsule",
        )
    chosen = {name: value for name in _BENCH_OPTIONS if (value := getattr(arguments, name))}
    for name in chosen:
        if arguments.name != _BENCH_OPTIONS[name]:
            raise ConfigError(
                f"{arguments.name} takes no --{name}", f"only {_BENCH_OPTIONS[name]} does", "leave it out"
            )
    status: int = importlib.import_module(module).run(_configured(arguments), arguments.json, **chosen)
    return status


def _verify(arguments: argparse.Namespace) -> int:
    from app.bench import gates

    return gates.run(_configured(arguments), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
