"""The compiler: Debian's, unpacked below contracts/.toolchain, with core and alloc compiled for the chain.

Installs nothing and needs no root; downloads go through apt. A toolchain is named after everything that went into it,
so a change to a pin, the patch or the target makes a new one, and a half-made one is never used.
"""

import fcntl
import hashlib
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from contracts.build import packages
from contracts.build.commands import run, say
from contracts.build.errors import BuildError, CommandFailedError
from contracts.build.patch_core import patch

HERE: Final = Path(__file__).resolve().parent
STORE: Final = HERE.parent / ".toolchain"
TARGET: Final = HERE / "sbf.json"
BUILTINS: Final = HERE / "compiler_builtins.rs"

_LIBRARY_ROUNDS: Final = 10
_COMPILE_FLAGS: Final = (
    "-Zunstable-options",
    "-Zforce-unstable-if-unmarked",
    "-Copt-level=3",
    "-Cpanic=abort",
    # Bitcode only: the backend cannot compile all of core, and need not, since only what the program uses is compiled.
    "-Clinker-plugin-lto",
    "--crate-type=rlib",
    "--cap-lints=allow",
)


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A ready toolchain below `root`."""

    root: Path

    @property
    def rustc(self) -> Path:
        return self.root / "usr/bin/rustc"

    @property
    def cargo(self) -> Path:
        return self.root / "usr/bin/cargo"

    @property
    def environment(self) -> dict[str, str]:
        """What rustc and cargo need to run from here; the target and its flags are unstable features."""
        return {"LD_LIBRARY_PATH": str(self.root / "usr/lib/x86_64-linux-gnu"), "RUSTC_BOOTSTRAP": "1"}


def ensure() -> Toolchain:
    """The toolchain, made first if it is not there (about 120 MB to download, a minute to compile)."""
    if platform.system() != "Linux" or platform.machine() != "x86_64" or shutil.which("apt-get") is None:
        raise BuildError(
            "this build needs Debian 12 on x86-64 (its compiler packages). Elsewhere use Solana's own toolchain: "
            "cargo build-sbf --manifest-path contracts/program/Cargo.toml"
        )
    toolchain = Toolchain(STORE / f"rust-{packages.RUST_VERSION.split('+')[0]}-{_fingerprint()}")
    STORE.mkdir(exist_ok=True)
    with _one_at_a_time():
        if not toolchain.root.exists():
            _make(toolchain)
    return toolchain


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for package, version in sorted({**packages.COMPILER, **packages.SOURCES}.items()):
        digest.update(f"{package}={version}\n".encode())
    for file in (TARGET, BUILTINS, HERE / "patch_core.py"):
        digest.update(file.read_bytes())
    digest.update(" ".join(_COMPILE_FLAGS).encode())
    return digest.hexdigest()[:12]


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    with (STORE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(toolchain: Toolchain) -> None:
    """Build in a folder beside the final one and rename it, so that an interrupted run leaves nothing usable."""
    partial = Toolchain(STORE / "partial")
    shutil.rmtree(partial.root, ignore_errors=True)
    partial.root.mkdir()
    say(f"Toolchain: Rust {packages.RUST_VERSION} from Debian's packages, into {toolchain.root.name}")
    for archive in _download({**packages.COMPILER, **packages.SOURCES}):
        _unpack(archive, partial.root)
    _add_missing_libraries(partial)
    library = _take_sources(partial.root)
    patch(library / "core/src")
    _compile_library(partial, library)
    shutil.rmtree(library)
    partial.root.rename(toolchain.root)


# ---- packages


def _download(wanted: Mapping[str, str | None]) -> list[Path]:
    """The packages' archives, downloaded unless they are there. A version of None is whichever apt offers."""
    folder = STORE / "downloads"
    folder.mkdir(exist_ok=True)
    archives = []
    for package, version in wanted.items():
        found = _archive(folder, package, version)
        if found is None:
            say(f"  downloading {package} {version or ''}".rstrip())
            _apt_download(folder, f"{package}={version}" if version else package)
            found = _archive(folder, package, version)
        if found is None:
            raise BuildError(f"apt-get download {package} left no archive in {folder}")
        archives.append(found)
    return archives


def _archive(folder: Path, package: str, version: str | None) -> Path | None:
    """apt names archives name_version_architecture.deb and writes a colon as %3a."""
    pattern = f"{package}_{version.replace(':', '%3a') if version else '*'}_*.deb"
    return next(iter(sorted(folder.glob(pattern))), None)


def _apt_download(folder: Path, package: str) -> None:
    """Download through apt; on a fresh machine its package lists are missing or old, so refresh them once."""
    command = ["apt-get", "download", "-q", package]
    try:
        run(command, cwd=folder)
    except CommandFailedError:
        say("  refreshing apt's package lists")
        try:
            run(["apt-get", "update", "-q"])
            run(command, cwd=folder)
        except CommandFailedError as error:
            raise BuildError(
                f"apt cannot download {package}. On Debian 12 check that the bookworm-security archive is enabled; if "
                f"the version was superseded, see contracts/build/packages.py.\n{error}"
            ) from error


def _unpack(archive: Path, root: Path) -> None:
    """Unpack without installing. Of the sources, hundreds of megabytes, only the standard library is needed."""
    if archive.name.startswith("rust-web-src_"):
        dpkg = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE)  # noqa: S607
        tar = ["tar", "-x", "-C", str(root), "--wildcards", "./usr/src/rustc-*/library/*"]
        subprocess.run(tar, stdin=dpkg.stdout, check=True)
        if dpkg.wait() != 0:
            raise BuildError(f"{archive} cannot be unpacked; delete it and try again")
    else:
        run(["dpkg-deb", "-x", str(archive), str(root)])


def _add_missing_libraries(toolchain: Toolchain) -> None:
    """Fetch the shared libraries that this system lacks, until rustc and cargo load."""
    for _ in range(_LIBRARY_ROUNDS):
        missing = _missing_libraries(toolchain)
        if not missing:
            return
        unknown = sorted(missing - packages.RUNTIME_LIBRARIES.keys())
        if unknown:
            raise BuildError(
                f"no package known for {', '.join(unknown)}; add it to contracts/build/packages.py"
            )
        wanted = {packages.RUNTIME_LIBRARIES[name] for name in missing}
        for archive in _download(dict.fromkeys(sorted(wanted))):
            _unpack(archive, toolchain.root)
    raise BuildError("rustc or cargo still lacks libraries after unpacking everything they ask for")


def _missing_libraries(toolchain: Toolchain) -> set[str]:
    listing = ""
    libraries = toolchain.root / "usr/lib/x86_64-linux-gnu"
    for binary in (toolchain.rustc, toolchain.cargo, *sorted(libraries.glob("*.so*"))):
        if binary.is_file() and not binary.is_symlink():
            listing += run(["ldd", str(binary)], env=toolchain.environment)
    return set(re.findall(r"^\s*(\S+) => not found", listing, re.MULTILINE))


# ---- Rust's own libraries


def _take_sources(root: Path) -> Path:
    """Move the unpacked library sources to root/library."""
    (source,) = (root / "usr/src").glob("rustc-*/library")
    target = root / "library"
    source.rename(target)
    return target


def _compile_library(toolchain: Toolchain, library: Path) -> None:
    """Compile core, compiler_builtins and alloc into the sysroot, where rustc looks for them by the target's name."""
    output = toolchain.root / "usr/lib/rustlib/sbf/lib"
    output.mkdir(parents=True)
    crates: Sequence[tuple[str, str, Path]] = (
        ("core", "2024", library / "core/src/lib.rs"),
        ("compiler_builtins", "2021", BUILTINS),
        ("alloc", "2024", library / "alloc/src/lib.rs"),
    )
    for name, edition, source in crates:
        say(f"  compiling {name}")
        command = [str(toolchain.rustc), f"--target={TARGET}", *_COMPILE_FLAGS]
        command += [f"--crate-name={name}", f"--edition={edition}", "-L", str(output), f"--out-dir={output}"]
        # Paths end up in panic locations; a fixed prefix keeps the folder of this checkout out of the artifact.
        command += [f"--remap-path-prefix={source.parent}=/rust/{name}", str(source)]
        run(command, env=toolchain.environment)
