"""`POST /complaints` on the relayer: an agent says what a gateway did with one payment it signed."""

import msgspec


class ComplaintRequest(msgspec.Struct):
    """The body, sent as a request signed by the agent. `kind` is "DENIED" or "OVERCHARGED"; `payment` one item of
    `POST /settlements` as the agent knows it: the signed intent and, where it got one, the gateway's receipt with
    `http_status`, `charged`, `served_total` and `served_at`."""

    gateway: str
    kind: str
    payment: msgspec.Raw
    detail: str = ""


class ComplaintAnswer(msgspec.Struct):
    """What became of it. `verdict` is "NOTED" (it counts once others say the same), "PROVEN" by the gateway's own
    receipt, or "REFUTED" by what the gateway delivered."""

    id: int
    verdict: str
