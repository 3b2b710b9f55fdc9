"""Shell files with SGLang launch commands to `Recipe`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from engine_adapter import model_names
from engine_adapter.flag_table import BOOL_FLAGS, DEFAULT_ENGINE_VERSION, Role, canonical_name
from engine_adapter.frontends import Policy, policy_of
from engine_adapter.published import transfer_of
from engine_adapter.sglang_flags import group_from_flags
from engine_adapter.srt_slurm import LoadedRecipe
from search_spaces.errors import BadInput
from search_spaces.hardware import Hardware
from search_spaces.model import ModelSpec
from search_spaces.recipe import EngineGroup, Frontend, Recipe

SERVER = re.compile(r"sglang\.launch_server|\bsglang serve\b|dynamo\.sglang\b")
ROUTER = re.compile(r"sglang_router\.launch_router")
ASSIGNMENT = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*=")
HEADER = re.compile(r"^#\s*(name|hardware|engine|concurrencies)\s*:\s*(\S.*?)\s*$", re.MULTILINE)
VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)(?::?-([^}]*))?\}|([A-Za-z_]\w*))")
ENGINE_PREFIXES = ("SGLANG_", "NCCL_", "NVSHMEM_", "MC_", "UCX_", "NIXL_", "DYN_", "TORCH_", "CUDA_", "GLOO_")
"""Plain assignments with these prefixes count as environment although the shell keeps them local."""
NODE_FLAGS = (
    "node-rank", "base-gpu-id", "port", "nnodes", "dist-init-addr", "host", "disaggregation-bootstrap-port",
)  # fmt: skip


@dataclass
class Command:
    """One server command: its flags and the environment it inherits."""

    flags: dict[str, object]
    env: dict[str, str]
    model: str | None = None


@dataclass
class _Script:
    """A file as read so far."""

    variables: dict[str, str] = field(default_factory=dict)
    exported: dict[str, str] = field(default_factory=dict)
    servers: list[Command] = field(default_factory=list)
    workers: dict[str, int] = field(default_factory=dict)
    routed: bool = False
    policy: Policy = "round_robin"


def is_launch_script(text: str) -> bool:
    """Whether a text starts SGLang servers."""
    return bool(SERVER.search(text))


def load_launch_script(
    text: str, where: str, *, hardware: str | None = None, engine_version: str | None = None
) -> LoadedRecipe:
    """The recipe that a script's commands start.

    Two commands with `--disaggregation-mode` prefill and decode make one disaggregated recipe;
    commands of one role that differ by node rank are one worker; a router command counts the
    workers. `# hardware: gb300` and `# engine: 0.5.15` comments stand in for the arguments.

    Raises:
        BadInput: no platform is named, roles do not fit together, or the engine refuses a flag.
    """
    header = dict(HEADER.findall(text))
    platform = hardware or header.get("hardware")
    if platform is None:
        raise BadInput(
            f"{where}: commands do not name a GPU; pass hardware or add a `# hardware: gb300` line"
        )
    script = _read(text, where)
    if not script.servers:
        raise BadInput(f"{where}: no `python -m sglang.launch_server` or `sglang serve` command; add one")
    found = model_names.platform(platform)
    paths = [command.model for command in script.servers]
    model = model_names.model_spec(paths)
    commands = _by_role(script.servers, where)
    version = engine_version or header.get("engine") or DEFAULT_ENGINE_VERSION
    groups = _groups(commands, script, found, model, version, where)
    flags = {role: command.flags for role, command in commands.items()}
    numbers = re.findall(r"\d+", header.get("concurrencies", ""))
    recipe = Recipe.parse(
        {
            "name": header.get("name") or where.rsplit("/", 1)[-1],
            "model": model.name,
            "hardware": found.name,
            "transfer_backend": transfer_of(flags, where) if "decode" in groups else None,
            "frontend": Frontend(kind="sglang_router" if script.routed else "none", policy=script.policy),
            "concurrencies": tuple(int(n) for n in numbers),
            "source": where,
            "launch": {"model_path": paths[0]} if paths[0] else {},
            **groups,
        },
        where,
    )
    return LoadedRecipe(recipe)


def _groups(
    commands: Mapping[Role, Command],
    script: _Script,
    hardware: Hardware,
    model: ModelSpec,
    version: str,
    where: str,
) -> dict[Role, EngineGroup]:
    """The group each role's command starts."""
    groups: dict[Role, EngineGroup] = {}
    for role, command in commands.items():
        try:
            groups[role] = group_from_flags(
                command.flags,
                command.env,
                role=role,
                hardware=hardware,
                model=model,
                num_workers=max(1, script.workers.get(role, 1)),
                engine_version=version,
                expert_weights=model_names.expert_weights([command.model]),
            )
        except BadInput as error:
            raise BadInput(f"{where}: {role} command: {error}") from None
    return groups


def _read(text: str, where: str) -> _Script:
    script = _Script()
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        stripped = line.strip()
        if stripped.startswith("#!"):  # another script of the same recipe: nothing is inherited
            script.variables, script.exported = {}, {}
        if not stripped or stripped.startswith("#"):
            continue
        try:
            tokens = shlex.split(stripped, comments=True)
        except ValueError:
            if SERVER.search(stripped):
                raise BadInput(f"{where}: unbalanced quotes in {stripped[:60]!r}; close them") from None
            continue
        tokens = [_expand(token, script.variables) for token in tokens]
        _read_line(tokens, script, where)
    return script


def _expand(token: str, variables: Mapping[str, str]) -> str:
    """`$NAME`, `${NAME}` and `${NAME:-default}` where the file assigned them."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[3]
        return variables.get(name, match[2] if match[2] is not None else match[0])

    return VARIABLE.sub(value, token)


def _read_line(tokens: list[str], script: _Script, where: str) -> None:
    """Assignments, then a server or router command."""
    local: dict[str, str] = {}
    exports = bool(tokens) and tokens[0] == "export"
    while tokens and (tokens[0] in ("export", "env") or ASSIGNMENT.match(tokens[0])):
        if ASSIGNMENT.match(tokens[0]):
            name, _, value = tokens[0].partition("=")
            if "$(" not in " ".join(tokens):
                local[name] = value
        tokens = tokens[1:]
    if not tokens:
        script.variables |= local
        script.exported |= {k: v for k, v in local.items() if exports or k.startswith(ENGINE_PREFIXES)}
        return
    text = " ".join(tokens)
    if ROUTER.search(text):
        script.routed = True
        named = [tokens[i + 1] for i, token in enumerate(tokens[:-1]) if token == "--policy"]
        script.policy = policy_of("sglang_router", dict(zip(["policy"], named, strict=False)))
        script.workers = {
            "prefill": tokens.count("--prefill"),
            "decode": tokens.count("--decode"),
            "aggregated": sum(t.startswith("http") for t in tokens) if "--worker-urls" in tokens else 0,
        }
    elif SERVER.search(text):
        start = next(i for i, token in enumerate(tokens) if SERVER.search(token) or token == "serve")
        command = parse_flags(tokens[start + 1 :], where)
        command.env = {**script.exported, **local}
        script.servers.append(command)


def parse_flags(tokens: list[str], where: str) -> Command:
    """Flags of the words behind a server command; raises `BadInput` for a stray word."""
    flags: dict[str, object] = {}
    model = None
    index = 0
    while index < len(tokens):
        token = tokens[index]
        if token in ("&", "|", ">", "2>&1", "&&", ";", "||") or token.startswith((">", "2>")):
            break
        if not token.startswith("--"):
            if index == 0:
                model = token  # `sglang serve MODEL`
            else:
                raise BadInput(f"{where}: stray argument {token!r}; quote it or give it a flag")
            index += 1
            continue
        name, equals, inline = token.partition("=")
        name = canonical_name(name)
        end = index + 1
        while end < len(tokens) and not tokens[end].startswith(("--", "&", ">", "|", "2>", ";")):
            end += 1
        values = [inline] if equals else tokens[index + 1 : end]
        if not values:
            flags[name] = True
        elif name in BOOL_FLAGS and not equals:
            raise BadInput(f"{where}: {name} takes no value, got {values}; remove {values[0]!r}")
        else:
            flags[name] = values[0] if len(values) == 1 else values
        index = end
    if "model-path" in flags:
        model = str(flags["model-path"])
    return Command(flags, {}, model)


def _by_role(servers: list[Command], where: str) -> dict[Role, Command]:
    """One command per role; more of one role must differ only by node."""
    found: dict[Role, Command] = {}
    for command in servers:
        mode = str(command.flags.get("disaggregation-mode", "null")).lower()
        role: Role = "prefill" if mode == "prefill" else "decode" if mode == "decode" else "aggregated"
        first = found.setdefault(role, command)
        if first is not command and _essence(first) != _essence(command):
            raise BadInput(
                f"{where}: two different {role} commands; keep one per role, or give them --node-rank"
            )
    if set(found) not in ({"aggregated"}, {"prefill", "decode"}):
        raise BadInput(
            f"{where}: commands have the roles {sorted(found)}; give prefill and decode, or one plain server"
        )
    return found


def _essence(command: Command) -> dict[str, object]:
    return {name: value for name, value in command.flags.items() if name not in NODE_FLAGS}
