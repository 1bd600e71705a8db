"""One answer from several processes: health and metrics. Pure."""

from typing import Any, Final

from machpay_gateway.siblings.family import Family

_NOT_THERE: Final = "the process does not answer"


def merge_health(family: Family, found: dict[int, dict[str, Any] | None]) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of `/health` for the processes of this machine; None stands for one that did not answer.

    `ok` if all are, `down` (503) if none can take payments, else `degraded`.
    """
    workers = []
    for index in sorted(found):
        told = found[index] or {"status": "down", "detail": _NOT_THERE}
        shown = {key: value for key, value in told.items() if key != "service"}
        workers.append({"worker": index, **shown, "gateway": family.pubkeys[index]})
    statuses = {worker["status"] for worker in workers}
    status = "ok" if statuses == {"ok"} else "down" if statuses == {"down"} else "degraded"
    body = {"status": status, "service": "gateway", "gateway": family.pubkeys[family.own], "workers": workers}
    return (503 if status == "down" else 200), body


def merge_metrics(found: dict[int, bytes]) -> bytes:
    """The Prometheus texts of several processes as one: every sample gets the label `worker`."""
    families: dict[str, list[str]] = {}
    for index in sorted(found):
        name = ""
        for line in found[index].decode().splitlines():
            if line.startswith("#"):
                fields = line.split(" ", 3)
                name = fields[2]
                lines = families.setdefault(name, [])
                if line not in lines:
                    lines.append(line)
            elif line:
                families.setdefault(name, []).append(_labelled(line, index))
    return "".join(f"{line}\n" for lines in families.values() for line in lines).encode()


def _labelled(sample: str, index: int) -> str:
    label = f'worker="{index}"'
    brace = sample.find("{")
    space = sample.index(" ")
    if 0 <= brace < space:
        return f"{sample[: brace + 1]}{label},{sample[brace + 1 :]}"
    return f"{sample[:space]}{{{label}}}{sample[space:]}"
