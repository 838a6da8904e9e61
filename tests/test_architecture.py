"""Rules of the layout that import-linter cannot say; its contracts are in pyproject.toml."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("coordinator", "devices", "edge_runtime", "export", "pacplus")

ON_A_DEVICE = {"numpy", "msgspec", "safetensors", "zmq", "onnxruntime"}
OUTSIDE_WORLD = {
    *("asyncio", "datetime", "fcntl", "glob", "http", "io", "multiprocessing", "os", "pathlib"),
    *(
        "random",
        "secrets",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "ssl",
        "subprocess",
    ),
    *("sys", "tempfile", "threading", "time", "urllib", "zmq"),
}
PURE_FOLDERS = [
    *("coordinator/session", "coordinator/workload", "coordinator/planner"),
    *("coordinator/protocol", "coordinator/tuning", "coordinator/samples"),
    "edge_runtime/contract",
]
MAX_LINES, MAX_FILES = 400, 18
UNSAFE_CALLS = {"eval", "exec", "compile", "open", "print", "input", "__import__"}


def sources(folder: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.py"))


def imports(file: str) -> Iterator[str]:
    """Full names of all modules that a file imports, anywhere in it."""
    package = file.split("/")[:-1]
    for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            yield ".".join(module)
            yield from (".".join([*module, alias.name]) for alias in node.names)


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def third_parties(file: str) -> set[str]:
    tops = {name.partition(".")[0] for name in imports(file)}
    return tops - set(sys.stdlib_module_names) - set(PACKAGES) - {"__future__"}


def calls(file: str) -> set[str]:
    """Names that a file calls plainly, ``open(...)`` but not ``path.open(...)``."""
    nodes = ast.walk(ast.parse((ROOT / file).read_text("utf-8")))
    return {
        node.func.id
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


@pytest.mark.parametrize("file", sources("edge_runtime"))
def test_a_device_needs_five_packages_besides_what_training_and_encryption_need(file: str) -> None:
    trains = file.startswith("edge_runtime/parallel_adapters/")
    encrypts = {"cryptography"} if file == "edge_runtime/cache/sealed_format.py" else set()
    assert third_parties(file) <= ON_A_DEVICE | encrypts | ({"torch"} if trains else set())


@pytest.mark.parametrize("file", sources("edge_runtime/contract"))
def test_the_contract_imports_itself_and_what_its_formats_need(file: str) -> None:
    own = {name for name in imports(file) if name.startswith("edge_runtime")}
    assert all(name.startswith("edge_runtime.contract") for name in own)
    assert third_parties(file) <= {"numpy", "msgspec", "safetensors"}


@pytest.mark.parametrize("file", [file for folder in PURE_FOLDERS for file in sources(folder)])
def test_pure_modules_touch_neither_files_nor_sockets_nor_clocks(file: str) -> None:
    tops = {name.partition(".")[0] for name in imports(file)}
    assert not tops & OUTSIDE_WORLD
    assert not calls(file) & UNSAFE_CALLS


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_unpickles(package: str) -> None:
    for file in sources(package):
        assert not {"pickle", "shelve", "marshal", "dill", "joblib"} & set(imports(file)), file
        text = (ROOT / file).read_text("utf-8")
        assert "allow_pickle=True" not in text, file
        assert "torch.load(" not in text, file


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed_and_whole(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
    for folder in {(ROOT / file).parent for file in sources(package)}:
        assert (folder / "__init__.py").is_file(), folder


def test_every_folder_that_is_said_to_be_pure_has_files_below_it() -> None:
    for folder in PURE_FOLDERS:
        assert len(sources(folder)) > 1, folder
    assert "edge_runtime/contract/messages/mesh.py" in sources("edge_runtime/contract")


def test_no_module_is_part_of_a_circle() -> None:
    files = [file for package in PACKAGES for file in sources(package)]
    modules = {module_of(file): file for file in files}
    imported = {
        module: {name for name in imports(file) if name in modules and name != module}
        for module, file in modules.items()
    }
    while leaves := {module for module, names in imported.items() if not names}:
        imported = {
            module: names - leaves for module, names in imported.items() if module not in leaves
        }
    assert not imported, f"circular imports among {sorted(imported)}"


@pytest.mark.parametrize("package", [*PACKAGES, "tests", "benchmarks"])
def test_files_fit_in_the_head_and_folders_on_a_screen(package: str) -> None:
    files = sources(package)
    long = {
        file for file in files if len((ROOT / file).read_text("utf-8").splitlines()) > MAX_LINES
    }
    assert not long, f"over {MAX_LINES} lines"
    folders = Counter(str(Path(file).parent) for file in files)
    assert not {folder: n for folder, n in folders.items() if n > MAX_FILES}


def test_every_folder_of_tests_is_a_package() -> None:
    for folder in {path.parent for path in (ROOT / "tests").rglob("*.py")}:
        assert (folder / "__init__.py").is_file(), folder


def test_an_import_inside_a_function_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text(
        "def work():\n    from ..other import thing\n    import time as clock\n    open('x')\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    assert set(imports("package/module.py")) >= {"other", "other.thing", "time"}
    assert calls("package/module.py") == {"open"}
