#!/usr/bin/env bash
# Runs the test suite of a driver directly and through Sluice, and prints which tests fail on one side only:
#
#   deploy/suites.sh psycopg2|asyncpg|pg8000 postgres://user:password@host:port/database postgres://...
#
# The first URL is PostgreSQL's own, the second that of a Sluice in front of the same database. The user must be a
# superuser: the suites create what they need, and drop it. Needs python3; suites and results are kept under
# target/suites. Not all differences are faults: see "What shows that there is a router" in README.md.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$PWD/${CARGO_TARGET_DIR:-target}/suites
python=$folder/python/bin/python

usage() { sed -n '2,5p' "$0" >&2; exit 2; }
[ $# -eq 3 ] || usage
suite=$1

case $suite in
  psycopg2) version=2.9.10 package=psycopg2-binary tests=tests ;;
  asyncpg) version=0.30.0 package=asyncpg tests="tests --deselect tests/test__sourcecode.py" ;;
  pg8000) version=1.31.2 package=pg8000 tests="test --ignore-glob=*/auth" ;;
  *) usage ;;
esac

# The driver as a wheel, its tests from the source archive.
prepare() {
  [ -e "$folder/$suite-$version" ] && return
  mkdir -p "$folder"
  [ -x "$python" ] || python3 -m venv "$folder/python"
  "$python" -m pip install --quiet "$package==$version" pytest pytest-timeout pytest-benchmark pytest-mock pytz \
    python-dateutil distro setuptools wheel Cython hatchling versioningit
  "$python" -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation --dest "$folder" "$suite==$version"
  tar -xzf "$folder/$suite-$version.tar.gz" -C "$folder"
  # What is tested is the installed driver, not the sources beside the tests.
  rm -rf "${folder:?}/$suite-$version/asyncpg" "$folder/$suite-$version/src"
}

# run SIDE URL: the tests that fail go to $suite.SIDE.
run() {
  local side=$1 out=$folder/$suite.$1.log
  eval "$("$python" - "$2" <<'URL'
import shlex, sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[1])
for name, value in [("PGHOST", url.hostname), ("PGPORT", url.port or 5432), ("PGUSER", url.username),
                    ("PGPASSWORD", url.password), ("PGDATABASE", url.path[1:]), ("PSYCOPG2_TESTDB", url.path[1:])]:
    print(f"export {name}={shlex.quote(str(value or ''))}")
URL
)"
  cd "$folder/$suite-$version"
  # A suite with failures is a result, not an error.
  # shellcheck disable=SC2086
  "$python" -m pytest -q -p no:cacheprovider --timeout 60 -rfE --tb=short --show-capture=no $tests >"$out" 2>&1 || true
  grep -E '^(FAILED|ERROR) ' "$out" | sed 's/ - .*//' | sort -u >"$folder/$suite.$side" || true
  echo "$side: $(tail -1 "$out") ($out)"
}

prepare
(run direct "$2")
(run sluice "$3")
diff "$folder/$suite.direct" "$folder/$suite.sluice" && echo "no difference"
