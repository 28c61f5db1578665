# The archiver's own image. Packaging (entry point, health check, a choice of PostgreSQL clients) comes with the daemon;
# this is the part that is there: a build, and a non-root user with the programs that the commands run.
FROM node:20-bookworm-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends build-essential python3
WORKDIR /src
COPY . .
RUN npm ci && npm prune --omit=dev

FROM node:20-bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends util-linux postgresql-client bzip2 xz-utils lz4 pigz gnupg \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/package.json /opt/walwarden/
COPY --from=build /src/dist /opt/walwarden/dist
COPY --from=build /src/node_modules /opt/walwarden/node_modules
RUN ln -s /opt/walwarden/dist/cli.js /usr/local/bin/walwarden \
 && ln -s /opt/walwarden/dist/patroni-cli.js /usr/local/bin/walwarden-patroni
USER node
ENTRYPOINT ["walwarden"]
