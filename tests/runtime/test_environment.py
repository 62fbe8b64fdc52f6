"""The description of the machine is complete, plain and cheap."""

import json
import platform
import subprocess
import sys

import onnxruntime
import pytest

from onnx_basisprune.errors import ConfigError
from onnx_basisprune.runtime import environment
from onnx_basisprune.runtime.environment import describe_environment


def test_describes_this_machine() -> None:
    described = describe_environment(3)
    assert json.loads(json.dumps(described)) == described
    assert described["threads"] == 3
    assert described["cpu"]
    assert described["logical_cores"] >= described["usable_cores"] >= 1
    assert described["versions"]["onnxruntime"] == onnxruntime.__version__
    assert list(described["versions"]) == ["basisprune", "onnx", "onnxruntime", "numpy", "torch"]
    assert described["execution_provider"] == "CPUExecutionProvider"


def test_denormals_are_told_as_the_session_has_set_them() -> None:
    # In a process of its own: there the first session decides.
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) { y = Neg (x) }"""
    code = (
        "import onnx; from onnx_basisprune.runtime.environment import describe_environment; "
        "from onnx_basisprune.runtime.session import Session; "
        "before = describe_environment(1)['denormals']; "
        f"Session(onnx.parser.parse_model({text!r}).SerializeToString()); "
        "print(before, describe_environment(1)['denormals'], sep='|')"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    # onnxruntime can set the mode on x86 only.
    on_x86 = platform.machine().lower() in ("x86_64", "amd64")
    assert result.stdout.strip() == f"kept|{'flushed to zero' if on_x86 else 'kept'}"


def test_names_the_provider_in_full() -> None:
    assert describe_environment(None, "CPU")["execution_provider"] == "CPUExecutionProvider"
    with pytest.raises(ConfigError, match="no execution provider 'none'"):
        describe_environment(None, "none")


def test_imports_none_of_what_it_names() -> None:
    code = (
        "import sys; from onnx_basisprune.runtime.environment import describe_environment; "
        "describe_environment(None); "
        "print(sorted({'torch', 'onnx', 'scipy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_absent_packages_have_no_version() -> None:
    assert environment._find_version("no-such-distribution-anywhere") is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (
            "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nprocessor\t: 1\nmodel name\t: Other\n",
            "Some CPU @ 2 GHz",
        ),
        ("processor : 0\nCPU part : 0xd0c\nHardware : BCM2835\nModel : Raspberry Pi 4\n", "Raspberry Pi 4"),
        ("processor : 0\nCPU implementer : 0x41\n", ""),
    ],
)
def test_reads_cpuinfo_of_several_kinds(text: str, name: str) -> None:
    assert environment._parse_cpuinfo(text) == name


def test_falls_back_to_the_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise OSError

    monkeypatch.setattr(environment, "_ask_system_for_cpu", fail)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert environment._find_cpu_name() == "riscv64"
