"""Who may import whom: a room imports only rooms of a lower layer, and only serve/ knows ray.serve."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "semrec_ray"
LAYERS = [
    {"rules", "errors", "telemetry", "pace", "splits"},
    {"tracing", "sizing"},
    {"stages"},
    {"types", "sections"},
    {"config"},
    {"data", "encode"},
    {"store"},
    {"learn", "state"},
    {"search", "rank"},
    {"plan", "users", "write"},
    {"parts", "serving", "examples", "ranker", "sampling", "moving"},
    {"items", "partitions", "slates", "variants"},
    {"explaining"},
    {"recommender", "pipeline", "publishing", "rollback", "indexing", "training", "api"},
    {"cluster", "evaluate", "bulk", "asking", "deployment"},
    {"gates", "comparison", "rollout"},
    {"migration"},
    {"demo", "terminal"},
    {"admin", "access", "canary", "doctor"},
    {"serve"},
    {"cli"},  # `semrec reshard` starts Serve applications: it imports serve, but only when it is asked for
]
LAYER = {room: depth for depth, rooms in enumerate(LAYERS) for room in rooms}
RAY_CLIENTS = {"ray.job_submission", "ray.dashboard.modules.serve.sdk"}


def imports(folder: Path = PACKAGE) -> Iterator[tuple[Path, str, str]]:
    """Yield (file, importing room, imported module) for every import, lazy ones too."""
    for path in sorted(folder.rglob("*.py")):
        room = path.relative_to(folder).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, room, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}: write the import in full"
                yield from ((path, room, f"{node.module}.{alias.name}") for alias in node.names)


def test_every_room_has_its_layer():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__"} <= LAYER.keys()


def test_imports_point_downwards():
    for path, room, module in imports():
        package, _, rest = module.partition(".")
        other = rest.split(".")[0]
        if package == "semrec_ray" and room != "__init__" and other in LAYER:
            assert other == room or LAYER[other] < LAYER[room], f"{path} imports {module}"


def test_api_speaks_types_and_rank_arrays():
    allowed = {"api": {"api", "types", "errors", "config", "rules", "telemetry"}, "rank": {"rank", "types", "errors"}}
    for path, room, module in imports():
        package, _, rest = module.partition(".")
        if room in allowed and package == "semrec_ray" and rest.split(".")[0] in LAYER:
            assert rest.split(".")[0] in allowed[room], f"{path} imports {module}"


def test_only_serve_knows_ray_and_the_demo_its_public_clients():
    for path, room, module in imports():
        if module.split(".")[0] == "ray" and room != "serve":
            assert room == "demo", f"{path} imports {module}"
            assert any(module.startswith(client) for client in RAY_CLIENTS), f"{path} imports {module}"


def test_the_command_line_imports_ray_and_what_needs_it_only_when_asked():
    tree = ast.parse((PACKAGE / "cli.py").read_text())
    names = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert not any(name.startswith("semrec_ray.serve") for name in names)


def test_only_jobs_know_ray_data():
    for path, _, module in imports():
        assert not module.startswith("ray.data"), f"{path} imports {module}"


def test_nothing_imports_jobs_or_benchmarks():
    for path, _, module in imports():
        assert module.split(".")[0] not in {"jobs", "benchmarks"}, f"{path} imports {module}"


def test_only_config_reads_the_environment_and_yaml():
    for path, room, _ in imports():
        text = path.read_text()
        if room not in {"config", "cluster", "demo", "deployment"}:  # these write them
            assert "os.environ" not in text, path
            assert "import yaml" not in text, path


def test_files_are_short_enough_to_read():
    for path in PACKAGE.rglob("*.py"):
        lines = path.read_text().count("\n")
        assert lines <= 400, f"{path} has {lines} lines"
