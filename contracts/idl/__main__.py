"""The command line: `python -m contracts.idl` writes the committed IDL, or prints a deployment's."""

import argparse
import json
import sys

from contracts.idl.document import PATH, document, text


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m contracts.idl", description="The program's Anchor IDL.")
    parser.add_argument(
        "--address", help="print the IDL of the program with this id instead of writing the file"
    )
    address = parser.parse_args().address
    if address is not None:
        print(json.dumps(document(address), indent=2))
        return 0
    PATH.write_text(text())
    print(f"written: {PATH}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
