"""How the Django admin looks: the console's mark and colours, and an index that says what needs attention."""

from typing import Any, Final

from django.templatetags.static import static

UNFOLD: Final[dict[str, Any]] = {
    "SITE_TITLE": "MachPay operations",
    "SITE_HEADER": "MachPay",
    "SITE_SUBHEADER": "Operations",
    "SITE_ICON": {
        "light": lambda request: static("console/mark.svg"),
        "dark": lambda request: static("console/mark.svg"),
    },
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("console/mark.svg")}
    ],
    "SITE_URL": "/",
    "SHOW_HISTORY": True,
    "SHOW_BACK_BUTTON": True,
    "DASHBOARD_CALLBACK": "apps.console.operations.dashboard",
    "COLORS": {
        "base": {
            "50": "#f7f6f2",
            "100": "#efede7",
            "200": "#e2ded4",
            "300": "#cfcabd",
            "400": "#9b9ba3",
            "500": "#71727a",
            "600": "#54555c",
            "700": "#3b3c42",
            "800": "#25272c",
            "900": "#16181c",
            "950": "#0f1013",
        },
        "primary": {
            "50": "#fdf3ed",
            "100": "#fbe6da",
            "200": "#f6c8b0",
            "300": "#f0a17b",
            "400": "#eb7442",
            "500": "#e5541b",
            "600": "#c8430f",
            "700": "#a3350d",
            "800": "#832e12",
            "900": "#6b2812",
            "950": "#3a1207",
        },
    },
}
