"""Building the Solana program from source, reproducibly, on a bare Debian 12.

    packages    the one pinned set of Debian packages the compiler comes from
    toolchain   unpacks them, compiles core for the target; everything below contracts/.toolchain
    patch_core  the one change made to Rust's core
    program     compiles contracts/program into contracts/artifacts/machpay.so, or compares with it
    linker      turns the compiler's BPF object into an SBPF v3 program

`python -m contracts.build program` and `python -m contracts.build verify` are the commands. Nothing here runs when the
network runs: the artifact is committed. The normal route for a release is the official toolchain (`cargo build-sbf`),
which accepts the same crate; docs/decisions/0002-program-toolchain.md says why this one exists beside it.
"""
