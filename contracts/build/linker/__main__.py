"""Called by rustc as a linker: `... -o OUT IN.o ...`. Arguments meant for other linkers are ignored."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from contracts.build.errors import LinkError
from contracts.build.linker.image import link
from contracts.build.linker.objects import read_object

ENTRY_POINT: Final = "entrypoint"
# Options of rustc's BPF linker flavour that take a value.
_OPTIONS_WITH_VALUE: Final = frozenset({"-o", "-e", "-L", "--cpu", "--export", "--export-symbols"})


def main(arguments: Sequence[str]) -> int:
    inputs: list[Path] = []
    output: Path | None = None
    remaining = iter(arguments)
    for argument in remaining:
        if argument in _OPTIONS_WITH_VALUE:
            value = next(remaining, "")
            if argument == "-o":
                output = Path(value)
        elif argument.endswith(".o"):
            inputs.append(Path(argument))
    if output is None or not inputs:
        print("usage: -o OUT IN.o ...", file=sys.stderr)
        return 2
    try:
        output.write_bytes(link([read_object(path) for path in inputs], ENTRY_POINT))
    except LinkError as error:
        print(f"link error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
