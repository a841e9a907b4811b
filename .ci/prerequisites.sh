#!/usr/bin/env bash
# Names what this machine lacks, with its Debian package, before anything is built.
#
#   .ci/prerequisites.sh build|test|ci              exit 1 with one line for each thing that is missing
#   .ci/prerequisites.sh build|test|ci --packages   only the packages' names, for apt-get; always exit 0
set -u
for_what=${1:-test}
packages_only=${2:-}
python=${PYTHON:-python3}
missing=0

lacks() { # lacks WHAT PACKAGE WHY
    missing=1
    if [ "$packages_only" = --packages ]; then
        printf '%s\n' "$2"
    else
        printf 'missing: %s (%s): apt-get install %s\n' "$1" "$3" "$2" >&2
    fi
}

have() { command -v "$1" >/dev/null 2>&1; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    lacks 'Python 3.11 or newer' 'python3' 'everything'
"$python" -c 'import ensurepip, venv' 2>/dev/null || lacks 'venv for Python' 'python3-venv' 'make creates .venv'
rust_minor=$(rustc --version 2>/dev/null | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p')
if ! have cargo || [ "${rust_minor:-0}" -lt 85 ]; then
    lacks 'Rust 1.85 or newer' 'rustup' 'the native core'
fi
have cc || lacks 'a C compiler' 'gcc' 'librdkafka'
have make || lacks 'make' 'make' 'librdkafka'
have pkg-config || lacks 'pkg-config' 'pkg-config' 'finds OpenSSL'
if have pkg-config && ! pkg-config --exists openssl; then
    lacks 'OpenSSL headers' 'libssl-dev' 'TLS to Kafka'
fi
if [ "$for_what" != build ]; then
    java_major=$(java -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
    [ "${java_major:-0}" -ge 17 ] 2>/dev/null || lacks 'Java 17 or newer' 'openjdk-17-jre-headless' 'a real Kafka to test on'
    have mvn || lacks 'Maven' 'maven' 'fetches Kafka'
    have redis-server || lacks 'Redis' 'redis-server' 'look-ups are tested on a real one'
fi
if [ "$for_what" = ci ]; then
    have valgrind || lacks 'valgrind' 'valgrind' 'counts the instructions of the kernel'
fi

if [ "$packages_only" != --packages ]; then
    exit $missing
fi
