"""Every setting of the network's Django side, read from the environment in this one place.

Names shared with gateways and the SDK are in `.env.example`. A missing or malformed value stops the process with the
variable's name; insecure defaults exist only under MACHPAY_PROFILE=demo.
"""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from apps.core.logging import logging_config
from machpay_site import admin_theme, env

BASE_DIR = Path(__file__).resolve().parent.parent

# --- Profile and security ---------------------------------------------------------------------------------------------
MACHPAY_PROFILE = env.profile()
DEMO = MACHPAY_PROFILE == "demo"
DEBUG = False
SECRET_KEY = env.text("DJANGO_SECRET_KEY", demo="demo-only-key-never-used-in-production-" + "0" * 24)
ALLOWED_HOSTS = env.words("ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]"] if DEMO else [])
CSRF_TRUSTED_ORIGINS = env.words("CSRF_TRUSTED_ORIGINS")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = not DEMO
BEHIND_TLS_PROXY = env.boolean("BEHIND_TLS_PROXY", default=not DEMO)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if BEHIND_TLS_PROXY else None
SECURE_HSTS_SECONDS = 0 if DEMO else 31_536_000
X_FRAME_OPTIONS = "DENY"
SECURE_REDIRECT_EXEMPT = [r"^health$", r"^metrics$"]

# --- Applications -----------------------------------------------------------------------------------------------------
INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "channels",
    "rest_framework",
    "drf_spectacular",
    "apps.core",
    "apps.ledger",
    "apps.accounts",
    "apps.telemetry",
    "apps.payments",
    "apps.agents",
    "apps.vendors",
    "apps.settlement",
    "apps.console",
]
AUTH_USER_MODEL = "accounts.User"
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "apps.core.middleware.RequestIdMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "machpay_site.urls"
ASGI_APPLICATION = "machpay_site.asgi.application"
WSGI_APPLICATION = "machpay_site.wsgi.application"
TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]
UNFOLD = admin_theme.UNFOLD

# --- Storage ----------------------------------------------------------------------------------------------------------
DATABASE_URL = env.text("DATABASE_URL")
_database = urlsplit(DATABASE_URL)
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(_database.path.lstrip("/")),
        "USER": unquote(_database.username or ""),
        "PASSWORD": unquote(_database.password or ""),
        "HOST": _database.hostname or "",
        "PORT": str(_database.port or ""),
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        # What follows a question mark is libpq's own (`sslmode`, `target_session_attrs`), as in the other processes.
        "OPTIONS": {"application_name": "machpay", **dict(parse_qsl(_database.query))},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
REDIS_URL = env.text("REDIS_URL")

# --- Chain ------------------------------------------------------------------------------------------------------------
SOLANA_RPC_URL = env.text("SOLANA_RPC_URL", "SOLANA_RPC", default="")
MACHPAY_PROGRAM_ID = env.text("MACHPAY_PROGRAM_ID", default="")
USDC_MINT = env.text("USDC_MINT", default="")
ADMIN_KEYPAIR = env.text("ADMIN_KEYPAIR", default="")
RELAYER_KEYPAIR = env.text("RELAYER_KEYPAIR", default="")
CUSTODY_KEYPAIR = env.text("CUSTODY_KEYPAIR", default="")
FACILITATOR_KEYPAIR = env.text("FACILITATOR_KEYPAIR", default="")  # set: the relayer runs the facilitator
MINT_AUTHORITY_KEYPAIR = env.text(
    "MINT_AUTHORITY_KEYPAIR", default=""
)  # the demo's test USDC; never set in production

# --- Recon ------------------------------------------------------------------------------------------------------------
SETTLE_INTERVAL_S = env.number("SETTLE_INTERVAL_S", default=30.0, minimum=0.1)
SETTLE_MINIMUM_ATOMIC = env.integer("SETTLE_MINIMUM_ATOMIC", default=1_000)
COMPLAINTS_TO_CASE = env.integer("COMPLAINTS_TO_CASE", default=3, minimum=1)
REVERSAL_GRACE_S = env.number("REVERSAL_GRACE_S", default=60.0)
FRAUD_INTERVAL_S = env.number("FRAUD_INTERVAL_S", default=2.0, minimum=0.1)
SETTLE_MAX_AGE_S = env.number("SETTLE_MAX_AGE_S", default=3600.0)
SETTLE_CREATE_MINIMUM_ATOMIC = env.integer("SETTLE_CREATE_MINIMUM_ATOMIC", default=50_000)
SETTLE_CREATE_MAX_AGE_S = env.number("SETTLE_CREATE_MAX_AGE_S", default=7 * 86_400.0)
SETTLE_BEFORE_UNLOCK_S = env.number("SETTLE_BEFORE_UNLOCK_S", default=6 * 3600.0)
AGGREGATION_CHANNELS_MIN = env.integer("AGGREGATION_CHANNELS_MIN", default=3, minimum=1)
AGGREGATION_LIFE_S = env.number("AGGREGATION_LIFE_S", default=120.0)
AGGREGATION_ASKED_S = env.number("AGGREGATION_ASKED_S", default=600.0)
PRIORITY_PRICE_MAX = env.integer("PRIORITY_PRICE_MAX", default=100_000, minimum=0)
LOOKUP_TABLE_CHANNELS_MIN = env.integer("LOOKUP_TABLE_CHANNELS_MIN", default=3, minimum=1)
BATCH_INTERVAL_S = env.number("BATCH_INTERVAL_S", default=3600.0)
BATCH_LEAVES_MAX = env.integer("BATCH_LEAVES_MAX", default=200_000, minimum=1)
BATCH_ARCHIVE_DIR = env.text("BATCH_ARCHIVE_DIR", default=str(BASE_DIR / "var" / "batches"))
CHAIN_POLL_INTERVAL_S = env.number("CHAIN_POLL_INTERVAL_S", default=2.0, minimum=0.1)

# --- Leases -----------------------------------------------------------------------------------------------------------
LEASE_LIFE_S = env.number("LEASE_LIFE_S", default=60.0, minimum=1.0)
LEASE_GRACE_S = env.number("LEASE_GRACE_S", default=30.0)
LEASE_INTENTS = env.integer("LEASE_INTENTS", default=10_000, minimum=1)
LEASE_SHARE_PERCENT = env.integer("LEASE_SHARE_PERCENT", default=25, minimum=1)
SETTLE_TARGET_S = env.number("SETTLE_TARGET_S", default=300.0)  # what urgent settlements may take at most
LEASES_KEPT_DAYS = env.integer("LEASES_KEPT_DAYS", default=30, minimum=1)
AGENT_DAYS_KEPT = env.integer("AGENT_DAYS_KEPT", default=366, minimum=1)

# --- Payouts ----------------------------------------------------------------------------------------------------------
PAYOUT_COOLING_OFF_S = env.number("PAYOUT_COOLING_OFF_S", default=60.0 if DEMO else 86_400.0)
PAYOUT_MINIMUM_ATOMIC = env.integer("PAYOUT_MINIMUM_ATOMIC", default=1_000_000, minimum=1)
PAYOUT_DAILY_LIMIT_ATOMIC = env.integer("PAYOUT_DAILY_LIMIT_ATOMIC", default=10_000_000_000, minimum=1)

# --- Telemetry --------------------------------------------------------------------------------------------------------
RECEIVER_BUFFER_ROWS = env.integer("RECEIVER_BUFFER_ROWS", default=20_000, minimum=1)
RECEIVER_FLUSH_ROWS = env.integer("RECEIVER_FLUSH_ROWS", default=1_000, minimum=1)
RECEIVER_LINGER_MS = env.number("RECEIVER_LINGER_MS", default=5.0)
LIVE_HEARTBEAT_S = env.number("LIVE_HEARTBEAT_S", default=15.0, minimum=0.1)
LIVE_STREAMS_PER_ADDRESS = env.integer("LIVE_STREAMS_PER_ADDRESS", default=32, minimum=1)

# --- Celery -----------------------------------------------------------------------------------------------------------
CELERY_BROKER_URL = REDIS_URL
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_TIME_LIMIT = 120
CELERY_TASK_SOFT_TIME_LIMIT = 90
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BEAT_SCHEDULE_FILENAME = env.text(
    "CELERY_BEAT_SCHEDULE_FILENAME", default=str(BASE_DIR / "var" / "celerybeat-schedule")
)

# --- Web --------------------------------------------------------------------------------------------------------------
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
# The demo serves files where they are; production serves what `collectstatic` gathered.
STATIC_ROOT = None if DEMO else env.text("STATIC_ROOT", default=str(BASE_DIR / "staticfiles"))
WHITENOISE_USE_FINDERS = DEMO
REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "apps.core.problems.exception_handler",
}
SPECTACULAR_SETTINGS = {"TITLE": "MachPay API", "VERSION": "1.0.0", "SERVE_INCLUDE_SCHEMA": False}

# --- Logging ----------------------------------------------------------------------------------------------------------
LOG_LEVEL = env.text("LOG_LEVEL", default="INFO")
LOGGING = logging_config(LOG_LEVEL)
LOGGING_CONFIG = "logging.config.dictConfig"

ENABLE_SIMULATION = env.boolean("ENABLE_SIMULATION", default=False)
