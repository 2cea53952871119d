# The image of the one binary: docker build -t context-sync .

FROM rust:1.95-slim AS build
# librdkafka and OpenSSL are compiled from source and linked into the binary.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ make perl pkg-config \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
RUN cargo build --release --locked --package context-sync --bin context-sync

FROM debian:trixie-slim
# Certificates of the authorities, for TLS to Kafka, Postgres, the issuer's keys and the object store.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/context-sync context-sync
# A volume mounted there is the user's.
RUN install --directory --owner=context-sync /var/lib/context-sync/archive
COPY --from=build /build/target/release/context-sync /usr/local/bin/context-sync
USER context-sync
WORKDIR /var/lib/context-sync
# 8080: devices. 9090: /healthz, /readyz, /metrics.
EXPOSE 8080 9090
ENTRYPOINT ["context-sync"]
CMD ["--help"]
