# The router alone: docker build -t sluice .
#
#   docker run -p 6432:6432 -e SLUICE_DATABASE_URL=postgres://app:secret@db.internal/app sluice
#   docker run -p 6432:6432 -v $PWD/sluice.toml:/etc/sluice/sluice.toml:ro sluice
#
# With a file of your own, listen on all addresses there: address = "0.0.0.0:6432", http = "0.0.0.0:6433".

FROM rust:1.95-slim-bookworm AS build
# The SQL parser is PostgreSQL's own, in C; its bindings are made by libclang.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libclang-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin sluice \
    && cp target/release/sluice /usr/local/bin/sluice

FROM debian:bookworm-slim
RUN groupadd --system --gid 6432 sluice \
    && useradd --system --uid 6432 --gid sluice --no-create-home --shell /usr/sbin/nologin sluice \
    && install -d -o sluice -g sluice /etc/sluice /run/sluice
COPY --from=build /usr/local/bin/sluice /usr/local/bin/sluice
# Used with SLUICE_DATABASE_URL; a configuration file says itself where to listen.
ENV SLUICE_LISTEN=0.0.0.0:6432 SLUICE_HTTP=0.0.0.0:6433
USER sluice
EXPOSE 6432 6433
# Transactions end first; SIGTERM would wait for clients to leave.
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s --timeout=5s --start-period=5s --retries=3 CMD ["sluice", "health"]
ENTRYPOINT ["sluice"]
CMD ["serve"]
