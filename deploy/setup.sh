#!/usr/bin/env bash
# Installs what building and testing need beyond Rust, make and a C compiler: PostgreSQL's server
# programs (15 or newer) and libclang, from which the SQL parser's bindings are made. Where it may not
# install, it prints the command that does. Does nothing when all is there.
set -euo pipefail
. "$(dirname "$0")/packages.sh"

# The same places as src/demo/binaries.rs.
has_postgres() {
  local found folder
  found=$(command -v postgres || true)
  [ -n "$found" ] && found=$(dirname "$(realpath "$found")")
  for folder in "${PG_BIN:-}" "$found" /usr/lib/postgresql/*/bin /usr/pgsql-*/bin \
    /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin \
    /Applications/Postgres.app/Contents/Versions/*/bin /usr/local/pgsql/bin; do
    if [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ] && [ -x "$folder/psql" ] &&
      [ "$("$folder/postgres" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')" -ge 15 ]; then
      return 0
    fi
  done
  return 1
}

has_libclang() {
  local file
  for file in "${LIBCLANG_PATH:-/nonexistent}"* /usr/lib/llvm-*/lib/libclang*.so* /usr/lib*/libclang*.so* \
    /usr/lib/*/libclang*.so* /usr/local/lib/libclang*.so* /opt/homebrew/opt/llvm*/lib/libclang.dylib \
    /usr/local/opt/llvm*/lib/libclang.dylib /Library/Developer/CommandLineTools/usr/lib/libclang.dylib \
    /Applications/Xcode.app/Contents/Developer/Toolchains/XcodeDefault.xctoolchain/usr/lib/libclang.dylib; do
    [ -e "$file" ] && return 0
  done
  return 1
}

install_postgres() {
  case $(manager) in
    apt-get)
      # Debian would start a server of its own on port 5432; nobody asked for that.
      install postgresql-common
      $(privilege) sed -i 's/^#* *create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
      install postgresql
      ;;
    brew) install postgresql@17 ;;
    *)
      # On RHEL the default stream is older.
      $(privilege) "$(manager)" module enable -q -y postgresql:16 </dev/null >/dev/null 2>&1 || true
      install postgresql-server postgresql
      ;;
  esac
}

install_libclang() {
  case $(manager) in
    apt-get) install libclang-dev ;;
    brew) install llvm ;;
    *) install clang-devel ;;
  esac
}

install_compiler() {
  case $(manager) in
    apt-get) install gcc libc6-dev ;;
    brew) xcode-select --install ;;
    *) install gcc ;;
  esac
}

if ! command -v cargo >/dev/null 2>&1; then
  echo "Rust is missing: see https://rustup.rs" >&2
  exit 1
fi
command -v cc >/dev/null 2>&1 || install_compiler
has_postgres || { [ "$(privilege)" = no ] && install postgresql || install_postgres; }
has_libclang || install_libclang
has_postgres || { echo "PostgreSQL 15 or newer was not found; set PG_BIN to the folder of its programs" >&2; exit 1; }
