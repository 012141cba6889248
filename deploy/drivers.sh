#!/usr/bin/env bash
# Prepares client drivers for the tests, under target/drivers:
#   python/bin/python        psycopg 3, psycopg2, asyncpg, SQLAlchemy and Django
#   node/node_modules        node-postgres and postgres.js
#   java/postgresql.jar      the JDBC driver (tests use `java File.java`, so a JDK)
# and, where apt has it, Debian's prometheus-pgbouncer-exporter, which reads the console.
# Idempotent. What cannot be had on this machine is skipped, with a line that says so.
set -uo pipefail
cd "$(dirname "$0")/.."
. deploy/packages.sh

PYTHON_PACKAGES="psycopg[binary]==3.2.9 psycopg2-binary==2.9.10 asyncpg==0.30.0 SQLAlchemy==2.0.41 alembic==1.20.1 Django==4.2.23"
NODE_PACKAGES="pg@8.16.0 pg-cursor@2.15.0 pg-copy-streams@6.0.6 postgres@3.4.7"
JDBC=org.postgresql:postgresql:42.7.7
folder=${CARGO_TARGET_DIR:-target}/drivers
log=$folder/log
mkdir -p "$folder"
: >"$log"

# have STAMP VERSIONS: whether exactly these versions were installed before.
have() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

skipped() { echo "skipped: $1 (see $log)"; }

# try_install PACKAGE...: quietly; the caller looks whether it helped.
try_install() {
  [ "$(privilege)" = no ] || [ "$(privilege)" = sudo ] || install "$@" >>"$log" 2>&1
}

python() {
  have "$folder/python/stamp" "$PYTHON_PACKAGES" && return
  local dir=$folder/python
  rm -rf "$dir"
  if ! python3 -m venv "$dir" >>"$log" 2>&1; then
    [ "$(manager)" = apt-get ] && try_install python3-venv || try_install python3
    rm -rf "$dir"
    # Another python3 may come first on PATH than the one the packages belong to.
    python3 -m venv "$dir" >>"$log" 2>&1 || /usr/bin/python3 -m venv "$dir" >>"$log" 2>&1 || return 1
  fi
  # shellcheck disable=SC2086
  "$dir/bin/python" -m pip install --quiet --disable-pip-version-check $PYTHON_PACKAGES </dev/null >>"$log" 2>&1 || return 1
  echo "$PYTHON_PACKAGES" >"$dir/stamp"
}

node_postgres() {
  have "$folder/node/stamp" "$NODE_PACKAGES" && command -v node >/dev/null && return
  command -v npm >/dev/null 2>&1 || { [ "$(manager)" = brew ] && try_install node || try_install nodejs npm; }
  command -v npm >/dev/null 2>&1 || return 1
  mkdir -p "$folder/node"
  npm install --prefix "$folder/node" --no-audit --no-fund --silent $NODE_PACKAGES </dev/null >>"$log" 2>&1 || return 1
  echo "$NODE_PACKAGES" >"$folder/node/stamp"
}

# The distribution's driver where there is one, else Maven's.
jdbc() {
  have "$folder/java/stamp" "$JDBC" && command -v javac >/dev/null && return
  mkdir -p "$folder/java"
  if ! packaged_jdbc && [ "$(manager)" = apt-get ]; then try_install libpostgresql-jdbc-java; fi
  if ! command -v javac >/dev/null 2>&1; then
    case $(manager) in
      apt-get) try_install default-jdk-headless ;;
      brew) try_install openjdk ;;
      *) try_install java-devel ;;
    esac
  fi
  command -v javac >/dev/null 2>&1 || return 1
  packaged_jdbc || maven_jdbc || return 1
  echo "$JDBC" >"$folder/java/stamp"
}

packaged_jdbc() {
  [ -f /usr/share/java/postgresql.jar ] && cp -L /usr/share/java/postgresql.jar "$folder/java/"
}

maven_jdbc() {
  command -v mvn >/dev/null 2>&1 || try_install maven
  mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy -Dartifact="$JDBC" -Dmdep.stripVersion=true \
    -DoutputDirectory="$PWD/$folder/java" </dev/null >>"$log" 2>&1 && [ -f "$folder/java/postgresql.jar" ]
}

# Only Debian and its kin package it. Its service would look for a PgBouncer that nobody runs, so it is
# masked before it comes (`systemctl unmask prometheus-pgbouncer-exporter` for whoever wants it), and
# RUNLEVEL keeps machines without systemd from starting it.
exporter() {
  command -v prometheus-pgbouncer-exporter >/dev/null 2>&1 && return
  [ "$(manager)" = apt-get ] || return
  local unit=/etc/systemd/system/prometheus-pgbouncer-exporter.service
  case $(privilege) in no | sudo) return 1 ;; esac
  [ -e "$unit" ] || { $(privilege) mkdir -p "${unit%/*}" && $(privilege) ln -s /dev/null "$unit"; } >>"$log" 2>&1
  RUNLEVEL=1 try_install prometheus-pgbouncer-exporter
  command -v prometheus-pgbouncer-exporter >/dev/null 2>&1
}

python || skipped "tests with Python drivers: no python3 with venv, or its packages could not be fetched"
node_postgres || skipped "tests with node-postgres: no node with npm, or the package could not be fetched"
jdbc || skipped "tests with JDBC: no JDK with maven, or the driver could not be fetched"
exporter || skipped "the test with Debian's exporter: prometheus-pgbouncer-exporter could not be installed"
exit 0
