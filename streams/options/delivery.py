"""The sections of guarded delivery: circuits, retries, targets, look-ups."""

from __future__ import annotations

from dataclasses import dataclass

from streams.options.rule import NAME, TOPIC, option

__all__ = ["CircuitSettings", "DeliverySettings", "LookupSettings", "TargetSettings"]

URL = r"https?://[^\s{}]+"
TARGET_URL = r"https?://[^\s{}/?#]+([/?][^\s{}#]*(\{key\}[^\s{}#]*)*)?"
"""`{key}` in path and query alone: a key must not choose the host."""


@dataclass(frozen=True, slots=True)
class CircuitSettings:
    """[circuit]: when a target counts as sick, and how it is tried again."""

    window_ms: int = option(
        30_000, "the rolling window that rates are of", "long enough for 20 calls of a slow target", least=1_000
    )
    bucket_ms: int = option(1_000, "the window moves in steps of this", "thirty steps of a window", least=100)
    calls_min: int = option(20, "fewer calls in the window say nothing", "three of four could be chance", least=1)
    failure_rate: float = option(0.5, "opens at this share of failed calls", "resilience4j's", least=0.01, most=1)
    slow_rate: float = option(
        0.8, "opens at this share of slow calls", "a target may be slow for a few of its entities", least=0.01, most=1
    )
    open_ms: int = option(5_000, "open for so long the first time, then twice as long", "Polly's", least=100)
    open_ms_max: int = option(300_000, "and at most so long", "Envoy's: back within five minutes", least=100)
    open_jitter: float = option(
        0.2,
        "the open time is changed by up to this share",
        "targets that fell together are tried apart",
        least=0,
        most=1,
    )
    trips_reset_ms: int = option(
        600_000, "closed for so long, the next open time is the first again", "ten minutes of health", least=1_000
    )
    probes: int = option(5, "trial requests that decide, at most", "resilience4j has 10, Polly 1", least=1, most=1_000)
    probe_share: float = option(
        0.05, "share of the waiting traffic that is tried, at least one request", "one in twenty", least=0.001, most=1
    )
    half_open_ms_max: int = option(
        60_000, "trial traffic that has not decided by then opens the circuit again", "probes get lost", least=1_000
    )
    report_ms: int = option(
        200, "how often a worker reports its counts", "three workers see a trip within a second", least=50, most=10_000
    )


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """[delivery]: retries and limits of all targets of a worker."""

    attempts_max: int = option(5, "attempts of one request, the first included", "gRPC's limit", least=1, most=100)
    retry_time_ms_max: int = option(60_000, "and the time they may take together", "half a poll interval", least=100)
    backoff_ms: int = option(100, "the first pause is up to this, each further one up to twice that", "AWS", least=1)
    backoff_ms_max: int = option(20_000, "a pause is at most this", "a target that restarts is back by then", least=1)
    retry_after_ms_max: int = option(
        300_000, "a Retry-After is obeyed up to this", "some answer with years", least=1_000
    )
    retry_budget: float = option(
        100, "tokens: a failed attempt takes one; with half or less, only first attempts are made", "gRPC A6", least=1
    )
    retry_budget_ratio: float = option(0.1, "what a success gives back of it", "gRPC A6", least=0.001, most=1)
    key_retry_ms_max: int = option(
        3_600_000, "a key that alone fails is a dead letter after this", "an hour: a deployment is over", least=1_000
    )
    pending_bytes_max: int = option(
        67_108_864, "bytes of pending patches per target in memory", "beyond, its reader stops", least=1_048_576
    )
    progress_ms: int = option(
        1_000, "how often progress is written", "a crash repeats at most what was on its way anyway", least=50
    )


@dataclass(frozen=True, slots=True)
class LookupSettings:
    """[lookup]: the cache behind `app.lookup`."""

    cache: str = option(
        "memory",
        "memory, or redis://host:port[/db] shared by all workers",
        "no further part unless wanted",
        pattern=r"memory|rediss?://\S+",
        wanted="memory or redis://host:port[/db]",
        url=True,
    )
    ttl_ms: int = option(300_000, "an answer is fresh for so long", "static data changes by the hour", least=1)
    negative_ttl_ms: int = option(
        30_000, "a 404 is believed for so long", "what is missing is often just being made", least=1
    )
    stale_ms_max: int = option(
        3_600_000,
        "an old answer is given for so long while its target is sick, marked stale",
        "an hour's outage",
        least=0,
    )
    timeout_ms: int = option(2_000, "for one request", "an enrichment that takes longer stops the stream", least=10)
    cache_timeout_ms: int = option(250, "for the cache to answer", "slower, the target is the faster one", least=1)
    entries_max: int = option(
        100_000, "answers kept in memory", "100,000 of a kilobyte are 100 MB", least=1, most=100_000_000
    )
    body_bytes_max: int = option(1_048_576, "an answer larger than this is refused", "configuration is small", least=1)


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """[[target]]: one receiver of patches over HTTP."""

    name: str = option("", "names the target: circuit, progress and metrics carry it", pattern=NAME, wanted="a name")
    source: str = option(
        "",
        "whose patches: the source of a [[sync]], here or in another worker; none: it is only looked up",
        pattern=f"({TOPIC})?",
        wanted="a topic name",
    )
    topic: str = option(
        "", "topic of the patches; default: {source}.patches", pattern=f"({TOPIC})?", wanted="a topic name"
    )
    message: str = option("", "full name of the message type; default: that of the [[sync]] of this source")
    descriptors: str = option("", "file with a FileDescriptorSet, where `message` is given")
    module: str = option("", "or the generated Python module")
    url: str = option(
        "",
        "where batches are posted; {key} (percent-encoded) makes it one request per key",
        pattern=TARGET_URL,
        wanted="http://... or https://..., {key} after the host alone",
        url=True,
    )
    format: str = option("protobuf", "streams.v1.PatchBatch, or JSON", choices=("protobuf", "json"))
    compression: str = option(
        "zstd",
        "of request bodies: zstd, dictionary (zstd with a trained one, to receivers that announce dcz), none",
        choices=("zstd", "dictionary", "none"),
    )
    batch_records_max: int = option(500, "patches in a request", "100 KB before compression", least=1, most=100_000)
    batch_bytes_max: int = option(1_048_576, "bytes in a request, uncompressed", "what servers take", least=1_024)
    linger_ms: int = option(20, "a request that is not full waits so long", "a fifth of a transaction", least=0)
    concurrency: int = option(
        4, "requests on their way at a time", "hides the receiver's round trip", least=1, most=256
    )
    timeout_ms: int = option(15_000, "for one request, from connect to the last byte", "Standard Webhooks", least=10)
    slow_ms: int = option(
        0, "a success that takes longer counts as slow; 0: two thirds of timeout_ms", "before time-outs do", least=0
    )
    rate_per_second_max: int = option(0, "requests a second; 0: no limit", least=0)
    attempts_max: int = option(0, "attempts of one request; 0: as in [delivery]", least=0, most=100)
    retry_time_ms_max: int = option(0, "and the time they may take together; 0: as in [delivery]", least=0)
    backoff_ms: int = option(0, "bound of the first pause; 0: as in [delivery]", least=0)
    backoff_ms_max: int = option(0, "bound of every pause; 0: as in [delivery]", least=0)
    key_retry_ms_max: int = option(
        0, "a key that alone fails is a dead letter after this; 0: as in [delivery]", least=0
    )
    snapshots_per_second_max: int = option(
        50, "snapshots asked for a second, for this target", "a lost receiver does not flood the owner", least=1
    )
    fallback: str = option(
        "queue",
        "while the circuit is open: queue (conflate), snapshot (drop, ask after), fail (dead letters)",
        "loses nothing and sends least",
        choices=("queue", "snapshot", "fail"),
    )
    allow_private: bool = option(False, "allow private and link-local addresses", "no way into the own network")
    bearer_token: str = option("", "sent as Authorization: Bearer", secret=True)
    bearer_token_file: str = option("", "file with the token, read again when it changes")
    oauth2_token_url: str = option(
        "", "OAuth 2 client credentials: where tokens come from", pattern=f"({URL})?", wanted="a URL", url=True
    )
    oauth2_client_id: str = option("", "OAuth 2 client")
    oauth2_client_secret: str = option("", "its secret", secret=True)
    oauth2_client_secret_file: str = option("", "file with its secret")
    oauth2_scope: str = option("", "OAuth 2 scopes, separated by blanks")
    oauth2_audience: str = option("", "OAuth 2 audience")
    ca_file: str = option("", "certificates to trust, PEM; default: the machine's")
    cert_file: str = option("", "client certificate, PEM: mutual TLS")
    key_file: str = option("", "key of the client certificate, PEM")
    signing_secret: str = option("", "Standard Webhooks secret, whsec_... or base64", secret=True)
    signing_secret_file: str = option("", "file with it")
