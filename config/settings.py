"""All settings, read from the environment once. Owns defaults; holds no logic beyond choosing them.

Every variable is documented in docs/configuration.md. The same file serves laptop and production:
`DATABASE_URL`, `REDIS_URL` and `PUBLIC_URL` choose between embedded and external services, and
what would be wrong in production fails a system check (config/checks.py), not a request.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url
from django.urls import reverse_lazy

from config import bundle_store, env
from config.logging import LOGGING as LOGGING
from gateway.providers import PROVIDERS

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(env.text("DATA_DIR", str(BASE_DIR / ".data"))).resolve()
DEBUG = env.flag("DEBUG", default=False)
# Embedded: one machine, nothing external. The default, so that `make run` needs no configuration.
EMBEDDED = env.flag("EMBEDDED", default=True)

# --- Addresses -------------------------------------------------------------------------------
PORT = env.integer("PORT", 8000)
PUBLIC_URL = env.text("PUBLIC_URL", f"http://localhost:{PORT}").rstrip("/")
_public = urlsplit(PUBLIC_URL)
# Deployed sites live at <deployId>.<APPS_DOMAIN>; browsers resolve *.localhost to this machine.
APPS_DOMAIN = env.text("APPS_DOMAIN", _public.hostname or "localhost")
ALLOWED_HOSTS = env.names(
    "ALLOWED_HOSTS", f"{_public.hostname},localhost,127.0.0.1,[::1]" if EMBEDDED else ""
) or [_public.hostname or "localhost"]
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL]

# --- Secrets ---------------------------------------------------------------------------------
# Three, so that one leak is not all leaks: sessions, digests of keys, encryption at rest.
SECRET_KEY = env.secret(
    "SECRET_KEY", fallback_file=DATA_DIR / "secrets" / "secret_key", generate=EMBEDDED
)
KEY_PEPPER = env.secret(
    "KEY_PEPPER", fallback_file=DATA_DIR / "secrets" / "key_pepper", generate=EMBEDDED
)
VAULT_KEY = env.secret(
    "VAULT_KEY", fallback_file=DATA_DIR / "secrets" / "vault_key", generate=EMBEDDED
)
# Who may read /metrics; empty: nobody.
METRICS_TOKEN = env.text("METRICS_TOKEN")

# --- Applications ----------------------------------------------------------------------------
# Daphne serves `runserver` alone, and brings all of Twisted, a fifth of every process's start.
IS_RUNSERVER = sys.argv[1:2] == ["runserver"]
INSTALLED_APPS = [
    *(["daphne"] if IS_RUNSERVER else []),
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "allauth",
    "allauth.account",
    "channels",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "ninja",
    "django_htmx",
    "config",
    "orgs",
    "billing",
    "deployments",
    "gateway",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "allauth.account.middleware.AccountMiddleware",
]
ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "orgs.context.console",
            ],
        },
    }
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Database, cache, channels, tasks --------------------------------------------------------
DATABASE_URL = env.text("DATABASE_URL", f"sqlite:///{DATA_DIR / 'db.sqlite3'}")
DATABASES = {"default": dj_database_url.parse(DATABASE_URL, conn_max_age=60)}
IS_SQLITE = DATABASES["default"]["ENGINE"].endswith("sqlite3")
if IS_SQLITE:
    DATABASES["default"]["OPTIONS"] = {
        # Write transactions take the lock at BEGIN: a deferred upgrade fails at once under load.
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; "
        # Without recursive_triggers, INSERT OR REPLACE deletes rows past our triggers.
        "PRAGMA foreign_keys=ON; PRAGMA recursive_triggers=ON; PRAGMA mmap_size=134217728;",
    }
    # A file, not memory: threads of one test run must see one database.
    DATABASES["default"]["TEST"] = {
        "NAME": Path(tempfile.gettempdir()) / f"aigateway-test-{os.getpid()}.sqlite3"
    }
else:
    DATABASES["default"].setdefault("OPTIONS", {})["connect_timeout"] = 5
    DATABASES["default"]["CONN_HEALTH_CHECKS"] = True

REDIS_URL = env.text("REDIS_URL")
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL}
    if REDIS_URL
    else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {"hosts": [REDIS_URL]},
    }
    if REDIS_URL
    else {"BACKEND": "channels.layers.InMemoryChannelLayer"}
}
CELERY_BROKER_URL = REDIS_URL or "memory://"
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_TIME_LIMIT = 300
CELERY_TIMEZONE = "UTC"
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 600} if REDIS_URL else {}

# --- Metering: journals of calls -------------------------------------------------------------
# On a local disk, one directory below it for each serving process. See docs/configuration.md.
JOURNAL_DIR = Path(env.text("JOURNAL_DIR", str(DATA_DIR / "journal"))).resolve()
JOURNAL_SEGMENT_BYTES = env.integer("JOURNAL_SEGMENT_BYTES", 16 * 1024 * 1024)
JOURNAL_FREE_BYTES_MIN = env.integer("JOURNAL_FREE_BYTES_MIN", 256 * 1024 * 1024)
JOURNAL_SLOTS = env.integer("JOURNAL_SLOTS", 4096)  # calls in flight in one process
# What an answer's end waits for: fsync, write or database.
BILLING_BARRIER = env.text("BILLING_BARRIER", "fsync")
# Who books journals: threads of the web process, or `manage.py ingest_usage` (one per host).
INGEST_IN_WEB = env.flag("INGEST_IN_WEB", default=EMBEDDED)

# --- People and log-in -----------------------------------------------------------------------
AUTH_USER_MODEL = "orgs.User"
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = reverse_lazy("account_login")
LOGIN_REDIRECT_URL = reverse_lazy("home")
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_ADAPTER = "orgs.accounts.AccountAdapter"
ACCOUNT_LOGOUT_REDIRECT_URL = reverse_lazy("account_login")
# Without a mail server, letters are written to the log.
EMAIL_HOST = env.text("EMAIL_HOST")
EMAIL_BACKEND = f"django.core.mail.backends.{'smtp' if EMAIL_HOST else 'console'}.EmailBackend"
EMAIL_PORT = env.integer("EMAIL_PORT", 587)
EMAIL_HOST_USER = env.text("EMAIL_HOST_USER")
EMAIL_HOST_PASSWORD = env.text("EMAIL_HOST_PASSWORD")
EMAIL_USE_TLS = env.flag("EMAIL_USE_TLS", default=True)
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env.text("EMAIL_FROM", f"AI Gateway <gateway@{_public.hostname}>")
# Whom people of a suspended organization turn to: an address or a page.
SUPPORT_CONTACT = env.text("SUPPORT_CONTACT", "whoever runs this platform")
# Webhooks go to public https addresses alone, except on a machine of one's own.
WEBHOOKS_TO_LOOPBACK = env.flag("WEBHOOKS_TO_LOOPBACK", default=EMBEDDED or DEBUG)
SESSION_COOKIE_AGE = 8 * 3600
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_HTTPONLY = True
X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
if _public.scheme == "https":
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
    SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "__Host-session", "__Host-csrf"
    SECURE_HSTS_SECONDS = 365 * 24 * 3600
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

# --- Admin -----------------------------------------------------------------------------------
UNFOLD = {
    "SITE_TITLE": "AI Gateway",
    "SITE_HEADER": "AI Gateway",
    "SITE_URL": "/",
    "SITE_ICON": lambda request: "/static/console/icon.svg",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": "/static/console/icon.svg"}],
    # The console's accent in the steps of unfold's palette.
    "COLORS": {
        "primary": {
            "50": "#f5f5fe",
            "100": "#eeedfd",
            "200": "#dedcfb",
            "300": "#c3c0f7",
            "400": "#9d98ef",
            "500": "#6a65e6",
            "600": "#5550d6",
            "700": "#4742be",
            "800": "#3c379c",
            "900": "#33307c",
            "950": "#211f45",
        }
    },
}

# --- Data API --------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["orgs.authentication.WorkspaceTokenAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "orgs.errors.data_api_exception_handler",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "AI Gateway data API",
    "DESCRIPTION": "Deploy apps, provision their gateway key, set their environment. "
    "Send your workspace token as `Authorization: Bearer wst_...`.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    # What is asked for and what is answered differ: a name that is sent must not be empty.
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "orgs.data_api.document_refusals",
    ],
}

# --- Files -----------------------------------------------------------------------------------
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
# Collected in production; embedded mode serves from where the files are.
STATIC_ROOT = env.text("STATIC_ROOT") or (None if EMBEDDED else str(DATA_DIR / "static"))
WHITENOISE_USE_FINDERS = EMBEDDED
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    "bundles": bundle_store.backend(env.text("STORAGE_URL"), DATA_DIR / "bundles"),
}
MEDIA_ROOT = DATA_DIR / "files"

# --- Deployments -----------------------------------------------------------------------------
INCOMING_DIR = DATA_DIR / "bundles" / "incoming"  # uploads while they arrive
RELEASES_DIR = DATA_DIR / "releases"  # working copies of bundles: unpacked, immutable
RUNTIME_DIR = DATA_DIR / "run"  # sockets of running functions
UPLOAD_BYTES_MAX = 100 * 1024 * 1024
UPLOAD_SECONDS_MAX = 600
UPLOADS_OUTSTANDING_MAX = env.integer("UPLOADS_OUTSTANDING_MAX", 20)  # per deployment
DEPLOYMENTS_PER_WORKSPACE_MAX = env.integer("DEPLOYMENTS_PER_WORKSPACE_MAX", 100)
# Per deployment: releases one can go back to, and those of them that lie unpacked.
RELEASES_KEPT_MAX = env.integer("RELEASES_KEPT_MAX", 50)
RELEASES_UNPACKED_MAX = env.integer("RELEASES_UNPACKED_MAX", 20)
FUNCTION_DRIVER = env.text("FUNCTION_DRIVER", "auto")
# For FUNCTION_DRIVER=aws-lambda; AWS credentials come from where AWS's own tools find them.
AWS_LAMBDA: dict[str, Any] = {
    "region": env.text("AWS_LAMBDA_REGION"),
    "role": env.text("AWS_LAMBDA_ROLE"),
    "runtime": env.text("AWS_LAMBDA_RUNTIME", "nodejs22.x"),
    "prefix": env.text("AWS_LAMBDA_PREFIX", "aig-"),
    "timeout_seconds": env.integer("AWS_LAMBDA_TIMEOUT_SECONDS", 30),
    "reserved_concurrency": env.integer("AWS_LAMBDA_RESERVED_CONCURRENCY", 0),
    "bucket": env.text("AWS_LAMBDA_S3_BUCKET"),
    "connections": env.integer("AWS_LAMBDA_CONNECTIONS", 200),
    "endpoint_url": env.text("AWS_LAMBDA_ENDPOINT_URL"),
}
# Where the process that runs functions listens (python -m deployments.runtime.host).
FUNCTION_HOST_SOCKET = Path(env.text("FUNCTION_HOST_SOCKET", str(RUNTIME_DIR / "fnhost.sock")))
# Where functions get through to the gateway, if not at PUBLIC_URL's own host and port.
FUNCTION_GATEWAY_ADDRESS = env.text("FUNCTION_GATEWAY_ADDRESS")
FUNCTION_EGRESS = env.text("FUNCTION_EGRESS", "public")  # or none: the gateway alone
FUNCTIONS_IN_PROCESS = False  # for tests: without a host, as children of this process

# --- Gateway: where the providers are ---------------------------------------------------------
# A credential in the admin wins over the environment; see docs/configuration.md.
PROVIDER_ENVIRONMENT = {
    name: {
        "base_url": env.text(f"PROVIDER_{name.upper()}_BASE_URL").rstrip("/"),
        "api_key": env.text(f"PROVIDER_{name.upper()}_API_KEY"),
    }
    for name in PROVIDERS
}
# How long a provider is waited for; see docs/configuration.md.
PROVIDER_SECONDS_MAX = {
    "connect": env.seconds("PROVIDER_CONNECT_SECONDS", 5),
    "first_byte": env.seconds("PROVIDER_FIRST_BYTE_SECONDS", 120),
    "idle": env.seconds("PROVIDER_IDLE_SECONDS", 120),
    "total": env.seconds("PROVIDER_TOTAL_SECONDS", 900),
}
STREAM_PING_SECONDS = env.seconds("STREAM_PING_SECONDS", 15)
# A client of a stream that takes nothing for so long counts as gone.
CLIENT_STALL_SECONDS = env.seconds("CLIENT_STALL_SECONDS", 60)
# Of the local model that `make run` starts; 0 for one per processor, up to four.
LOCAL_MODEL_THREADS = env.integer("LOCAL_MODEL_THREADS", 0)
# A local server that answers in the place of providers without a key; `make run` starts one.
STANDINS = env.flag("STANDINS", default=EMBEDDED)
STANDIN_URL = env.text("STANDIN_URL").rstrip("/")
# What an organization may use per process unless staff set its limits; 0 for no limit.
LIMIT_DEFAULTS = {
    "requests_per_minute": env.integer("LIMIT_REQUESTS_PER_MINUTE", 600_000),
    "tokens_per_minute": env.integer("LIMIT_TOKENS_PER_MINUTE", 1_000_000_000),
    "concurrency": env.integer("LIMIT_CONCURRENCY", 5_000),
}
AI_BODY_BYTES_MAX = 20 * 1024 * 1024
API_BODY_BYTES_MAX = 1024 * 1024

# --- Payments --------------------------------------------------------------------------------
# Without a key nobody can top up; without a webhook secret no message of Stripe's is believed.
STRIPE_API_KEY = env.text("STRIPE_API_KEY")
STRIPE_WEBHOOK_SECRET = env.text("STRIPE_WEBHOOK_SECRET")
STRIPE_API_BASE = env.text("STRIPE_API_BASE").rstrip("/")  # only for another server than Stripe's

# --- Time and language -----------------------------------------------------------------------
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
USE_I18N = False
