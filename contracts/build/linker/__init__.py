"""A small linker: one or more BPF objects from LLVM in, one SBPF v3 program out.

No linker for this was to be had from a package registry that works with Debian's compiler
(docs/decisions/0002-program-toolchain.md). SBPF v3 makes it short: there are no relocations in the result, calls to
the runtime are hashes of the syscalls' names, and the file is an ELF header with two segments.

    objects   reading LLVM's relocatable objects
    syscalls  the functions the runtime offers, and how v3 names them
    image     choosing what is needed, placing it, resolving references, writing the file
"""
