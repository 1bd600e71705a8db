"""What the demo's vendors sell: two vendors, one gateway each, in front of the same upstream."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Route:
    """One priced route of a gateway."""

    method: str
    path: str
    price_atomic: int
    description: str
    match: str = "exact"


@dataclass(frozen=True, slots=True)
class Offer:
    """One vendor and its gateway. `sample_path` is a priced path that answers 200."""

    vendor: str
    title: str
    description: str
    sample_path: str
    categories: tuple[str, ...]
    routes: tuple[Route, ...] = field(default=())

    @property
    def gateway(self) -> str:
        return f"gateway-{self.vendor}"


LEXICON = Offer(
    vendor="lexicon",
    title="Lexicon",
    description="Text embeddings and similarity, 256 dimensions",
    sample_path="/embed?text=micropayments",
    categories=("text", "embeddings"),
    routes=(
        Route("GET", "/embed", 1_000, "Embed one text"),
        Route("POST", "/embed", 1_000, "Embed one text sent as JSON"),
        Route("GET", "/similarity", 1_500, "How close two texts are in meaning"),
        Route("GET", "/fail", 5_000, "Always fails, and therefore never costs anything"),
    ),
)
ATLAS = Offer(
    vendor="atlas",
    title="Atlas",
    description="Countries, their time zones and the local time in each",
    sample_path="/countries/CH",
    categories=("data", "geography"),
    routes=(Route("GET", "/countries/", 400, "One country by its ISO code", match="prefix"),),
)
OFFERS = (LEXICON, ATLAS)
