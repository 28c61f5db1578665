# The daemon and all commands, with the programs that they run. Build: docker build --build-arg PG_MAJOR=16 -t walwarden .
#
# A tag can be moved: to pin what you build with, add the digest that `docker buildx imagetools inspect TAG` shows, as in
# node:20.20.2-bookworm-slim@sha256:…
ARG NODE_IMAGE=node:20.20.2-bookworm-slim

FROM ${NODE_IMAGE} AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential python3
WORKDIR /src
COPY . .
# Its script `prepare` makes dist/.
RUN npm ci && npm prune --omit=dev

FROM ${NODE_IMAGE}
# The client programs of the newest server: pg_receivewal receives from its own version and older ones.
ARG PG_MAJOR=17
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates curl \
 && install -d /usr/share/postgresql-common/pgdg \
 && curl --fail --silent --show-error -o /usr/share/postgresql-common/pgdg/apt.postgresql.org.asc \
      https://www.postgresql.org/media/keys/ACCC4CF8.asc \
 && . /etc/os-release \
 && echo "deb [signed-by=/usr/share/postgresql-common/pgdg/apt.postgresql.org.asc] https://apt.postgresql.org/pub/repos/apt ${VERSION_CODENAME}-pgdg main" \
      > /etc/apt/sources.list.d/pgdg.list \
 && apt-get update \
 && apt-get install -y --no-install-recommends \
      "postgresql-client-${PG_MAJOR}" util-linux tini gnupg gzip bzip2 xz-utils zstd lz4 pigz \
 && rm -rf /var/lib/apt/lists/*

# The owner of the volume; give the number of another one to docker build when there is an archive already.
ARG BARMAN_UID=999
RUN groupadd --gid "${BARMAN_UID}" barman \
 && useradd --uid "${BARMAN_UID}" --gid barman --home-dir /var/lib/barman --shell /usr/sbin/nologin barman \
 && install -d -o barman -g barman -m 0750 /var/lib/barman \
 && install -d /etc/walwarden.d

COPY --from=build /src/package.json /opt/walwarden/
COPY --from=build /src/dist /opt/walwarden/dist
COPY --from=build /src/node_modules /opt/walwarden/node_modules
# Servers are files in /etc/walwarden.d: mount it, or another /etc/walwarden.conf.
COPY config/walwarden.conf /etc/walwarden.conf
RUN ln -s /opt/walwarden/dist/cli.js /usr/local/bin/walwarden \
 && ln -s /opt/walwarden/dist/patroni-cli.js /usr/local/bin/walwarden-patroni

# A file system that does not answer holds a thread for each call.
ENV NODE_ENV=production UV_THREADPOOL_SIZE=32
USER barman
WORKDIR /var/lib/barman
VOLUME /var/lib/barman
# Without -g: SIGTERM is for the daemon alone, which ends its receivers itself. It takes shutdown_timeout (30 s) at most, and
# docker stop kills after 10 s: docker stop --time 45, stop_grace_period: 45s, terminationGracePeriodSeconds: 45.
ENTRYPOINT ["tini", "--", "walwarden"]
CMD ["daemon"]
HEALTHCHECK --interval=30s --timeout=10s --start-period=15s \
  CMD ["curl", "--fail", "--silent", "--show-error", "--max-time", "5", "--unix-socket", "/var/lib/barman/walwarden.sock", "http://localhost/livez"]
