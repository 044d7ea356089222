# The webhook outside of Functions: nothing but the program, its rules and the roots
# of trust, run by a user without rights.
#
#   docker build -t usher .
#   docker run --read-only --cap-drop ALL -p 8080:8080 -e USHER_FUNCTION_KEYS=KEY usher
#
# Other rules: -v "$PWD/rules:/rules:ro", or USHER_RULES with the URL of a bundle; then
# --tmpfs /tmp as well, or a volume for USHER_RULES_CACHE, where the last good one is kept.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# Given by BuildKit. A default here would go before what it gives.
ARG TARGETOS TARGETARCH
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -tags grpcnotrace -trimpath -ldflags='-s -w -buildid=' -o /out/handler ./function-app
# Without tests and exchanges; and what does not load makes no image.
RUN mkdir -p /out/rules && go run ./cmd/usher bundle -o /tmp/rules.tar.gz && tar -xzf /tmp/rules.tar.gz -C /out/rules

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/handler /handler
COPY --from=build /out/rules /rules
USER 65532:65532
ENV USHER_LISTEN=:8080 USHER_RULES=/rules
EXPOSE 8080
ENTRYPOINT ["/handler"]
