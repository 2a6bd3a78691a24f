# sealbatch in a container, for those who run HPCS's steps with docker compose (compose.yaml).
#
#   docker build -t sealbatch .
#
# Nothing of a distribution is in it: two static programs, which also travel with every job. So build
# it for the processors of the supercomputer (--platform linux/amd64, say), whatever the laptop has.
# The digest of its index, which covers every platform: `docker buildx imagetools inspect golang:TAG` shows that of another.
FROM golang:1.26.8@sha256:3c3e25a4da13fd0478eed2df1eb35a0e667094a7124d3993a6a1d30f71c17e79 AS build
WORKDIR /src
COPY go.mod go.sum ./
COPY tools/gocryptfs ./tools/gocryptfs/
RUN go mod download && go -C tools/gocryptfs mod download
COPY . .
RUN make build

FROM scratch
COPY --from=build /src/bin/sealbatch /src/bin/gocryptfs /usr/local/bin/
# The home directory is where compose.yaml mounts .ssh, and where submitted jobs are remembered.
ENV PATH=/usr/local/bin HOME=/tmp
ENTRYPOINT ["/usr/local/bin/sealbatch"]
