"""Compiling contracts/program, and comparing the result with the committed artifact.

The same source gives the same bytes in every folder and for every user: versions are pinned by Cargo.lock and
`packages`, paths are mapped to fixed names, and flags of the environment are ignored.
"""

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from contracts.build import toolchain
from contracts.build.commands import run, say
from contracts.build.errors import BuildError

CONTRACTS: Final = Path(__file__).resolve().parent.parent
CRATE: Final = CONTRACTS / "program"
ARTIFACT: Final = CONTRACTS / "artifacts" / "machpay.so"

# The stack frame that the runtime grants each call.
_STACK_FRAME_BYTES: Final = 4096


def build_artifact() -> None:
    """Build the artifact in place. Says whether its bytes changed."""
    tools = toolchain.ensure()
    before = ARTIFACT.read_bytes() if ARTIFACT.exists() else None
    built = _compile(tools, CONTRACTS / "target")
    ARTIFACT.parent.mkdir(exist_ok=True)
    if built != before:
        ARTIFACT.write_bytes(built)
    outcome = "unchanged" if built == before else "written"
    say(f"{outcome}: {ARTIFACT.relative_to(CONTRACTS.parent)}, {_describe(built)}")


def verify_artifact() -> None:
    """Rebuild from nothing in a temporary folder and compare. Raises `BuildError` if a byte differs."""
    tools = toolchain.ensure()
    if not ARTIFACT.exists():
        raise BuildError("there is no committed artifact; run: python -m contracts.build program")
    committed = ARTIFACT.read_bytes()
    with tempfile.TemporaryDirectory(prefix="machpay-program-") as folder:
        built = _compile(tools, Path(folder))
    if built != committed:
        raise BuildError(
            f"the artifact is not what the source builds.\n  committed {_describe(committed)}\n"
            f"  built     {_describe(built)}\nRun `python -m contracts.build program` and commit the result."
        )
    say(f"verified: {ARTIFACT.relative_to(CONTRACTS.parent)} is what the source builds, {_describe(built)}")


def _describe(program: bytes) -> str:
    return f"{len(program):,} bytes, sha256 {hashlib.sha256(program).hexdigest()}"


def _compile(tools: toolchain.Toolchain, target: Path) -> bytes:
    """Compile and link the crate with `target` as cargo's target folder. Returns the program's bytes."""
    say("Program: fetching crates")
    manifest = f"--manifest-path={CRATE / 'Cargo.toml'}"
    environment = tools.environment | {"RUSTC": str(tools.rustc), "CARGO_TERM_COLOR": "never"}
    for name in ("RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_BUILD_RUSTC_WRAPPER"):
        environment[name] = ""
    run([str(tools.cargo), "fetch", "--quiet", "--locked", manifest], env=environment)

    say("Program: compiling")
    target.mkdir(parents=True, exist_ok=True)
    environment["CARGO_TARGET_SBF_LINKER"] = str(_linker_command(target))
    environment["CARGO_ENCODED_RUSTFLAGS"] = "\x1f".join(_flags())
    command = [str(tools.cargo), "-Zjson-target-spec", "rustc", "--quiet", "--offline", "--locked", manifest]
    # Only the cdylib: as a library too, cargo would have every dependency compiled to machine code of its own.
    command += ["--lib", "--crate-type=cdylib", "--release", f"--target={toolchain.TARGET}"]
    # Cargo does not notice a changed linker; the program is small enough to be compiled anew every time.
    shutil.rmtree(target / "sbf", ignore_errors=True)
    run([*command, f"--target-dir={target}"], env=environment)
    return (target / "sbf" / "release" / "libmachpay.so").read_bytes()


def _flags() -> list[str]:
    """Compiler flags that hold for every crate. The folders of crates are mapped to one name: panics mention them."""
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    registries = sorted((home / "registry" / "src").iterdir())
    flags = [f"-Cllvm-args=-bpf-stack-size={_STACK_FRAME_BYTES}", f"--remap-path-prefix={CRATE}=/program"]
    return flags + [f"--remap-path-prefix={registry}=/crates" for registry in registries]


def _linker_command(folder: Path) -> Path:
    """An executable that runs our linker with this interpreter: rustc takes one file, not a command line."""
    script = folder / "sbpf-linker"
    script.write_text(
        f'#!/bin/sh\nPYTHONPATH="{CONTRACTS.parent}" exec "{sys.executable}" -m contracts.build.linker "$@"\n'
    )
    script.chmod(0o755)
    return script
