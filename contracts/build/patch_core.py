"""The one change made to Rust's core: copies and fills of a length known only at run time call Solana's syscalls.

Upstream LLVM's BPF backend inlines copies of constant length and refuses the calls to memcpy, memmove and memset that
all others become. So `ptr::copy`, `ptr::copy_nonoverlapping` and `ptr::write_bytes` keep the intrinsic for constants
and call `sol_memcpy_`, `sol_memmove_`, `sol_memset_` otherwise. Each replacement must match exactly once: core of
another version fails loudly here instead of miscompiling later.
"""

from pathlib import Path

from contracts.build.errors import BuildError

BYTES = "(count * size_of::<T>()) as u64"


def patch(core: Path) -> None:
    """Patch the sources below `core` (library/core/src) in place."""
    pointers = core / "ptr" / "mod.rs"
    text = pointers.read_text()
    copy_arguments = "src: *const T, dst: *mut T, count: usize"
    for name, syscall in (("copy_nonoverlapping", "sol_memcpy_"), ("copy", "sol_memmove_")):
        text = _replace(
            text,
            f"crate::intrinsics::{name}(src, dst, count)",
            _either(
                intrinsic=f"crate::intrinsics::{name}(src, dst, count)",
                arguments=copy_arguments,
                declaration=f"fn {syscall}(d: *mut u8, s: *const u8, n: u64);",
                call=f"{syscall}(dst as *mut u8, src as *const u8, {BYTES})",
            ),
        )
    text = _replace(
        text,
        "crate::intrinsics::write_bytes(dst, val, count)",
        _either(
            intrinsic="crate::intrinsics::write_bytes(dst, val, count)",
            arguments="dst: *mut T, val: u8, count: usize",
            declaration="fn sol_memset_(d: *mut u8, c: u8, n: u64);",
            call=f"sol_memset_(dst as *mut u8, val, {BYTES})",
        ),
    )
    # The macro's expansion opens unsafe blocks of its own; an outer one would be an unused-unsafe error in core.
    text = text.replace(
        "unsafe { crate::intrinsics::const_eval_select!(", "{ crate::intrinsics::const_eval_select!("
    )
    for name in ("copy_nonoverlapping", "copy", "write_bytes"):
        signature = f"pub const unsafe fn {name}<T>("
        allow = "#[rustc_allow_const_fn_unstable(const_eval_select)]\n"
        text = _replace(text, signature, allow + signature)
    pointers.write_text(text)

    fills = core / "slice" / "specialize.rs"
    fills.write_text(fills.read_text().replace("crate::intrinsics::write_bytes(", "crate::ptr::write_bytes("))


def _either(*, intrinsic: str, arguments: str, declaration: str, call: str) -> str:
    """An expression that is the intrinsic during constant evaluation and for constant counts, else the syscall."""
    return f"""crate::intrinsics::const_eval_select!(
            @capture[T] {{ {arguments} }}:
            if const {{ unsafe {{ {intrinsic} }} }} else {{
                unsafe extern "C" {{ {declaration} }}
                if crate::intrinsics::is_val_statically_known(count) {{ unsafe {{ {intrinsic} }} }}
                else {{ unsafe {{ {call} }} }}
            }}
        )"""


def _replace(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise BuildError(
            f"Rust's core is not the one patch_core was written for: {text.count(old)} times {old!r}"
        )
    return text.replace(old, new)
