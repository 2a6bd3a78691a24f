# shellcheck shell=bash
# What the cluster is made of, built once and cached: the root file system, the test image, SSH
# keys, stock tools. The key is a hash of what makes them.

HOST_PACKAGES=(debootstrap debian-archive-keyring gpgv iproute2 util-linux procps kmod fuse3)
provision_key=$(cat "$HERE"/lib/provision-build.sh "$HERE"/lib/image.sh "$HERE"/lib/picture.pl | sha256sum | cut -c1-12)
PROVISION=$CACHE/testcluster/$provision_key

# The oldest debian-archive-keyring known to verify Debian 13.
keyring_needed=2023.3+deb12u2

install_host_packages() {
    local package version missing=()
    for package in "${HOST_PACKAGES[@]}"; do
        version=$(dpkg-query -W -f='${db:Status-Status} ${Version}' "$package" 2>/dev/null) || version=
        case $version in
            installed\ *) ;;
            *) missing+=("$package") && continue ;;
        esac
        if [ "$package" = debian-archive-keyring ] && dpkg --compare-versions "${version#* }" lt "$keyring_needed"; then
            missing+=("$package")
        fi
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    note "installing on this machine: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get -qq update && apt-get -qq -y install --no-install-recommends "${missing[@]}"; } >&2 9>&- ||
        die "apt-get could not install ${missing[*]}"
}

# mirror: the URI from which this machine itself gets Debian, as apt reads its own sources.
mirror() {
    if [ -n "${SEALBATCH_MIRROR-}" ]; then
        printf '%s\n' "$SEALBATCH_MIRROR"
        return
    fi
    local uri release component
    # shellcheck disable=SC2016 # the dollar signs are apt's
    while read -r uri release component; do
        [ "$component" = main ] || continue
        case $release in *-*) continue ;; esac
        case $uri in
            http://* | https://* | file:/*)
                printf '%s\n' "$uri"
                return
                ;;
        esac
    done < <(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages')
    die "no http, https or file mirror of Debian's \"main\" in apt's sources; name one in SEALBATCH_MIRROR"
}

provision_once() {
    [ -d "$PROVISION" ] || provision_build
    touch -c "$PROVISION"
    # A name that stays when the key changes.
    [ "$(readlink "$CACHE/images" || true)" = "$PROVISION/images" ] || ln -sfn "$PROVISION/images" "$CACHE/images"
}

provision_build() (
    mkdir -p "$CACHE/testcluster"
    exec 8>"$CACHE/testcluster/lock"
    flock 8
    [ ! -d "$PROVISION" ] || exit 0
    install_host_packages
    from=$(mirror)
    rm -rf --one-file-system "$CACHE"/testcluster/partial.*
    partial=$(mktemp -d "$CACHE/testcluster/partial.XXXXXX")
    chmod 755 "$partial"
    note "building the root file system from $from (once, one to two minutes)"
    # In its own mount and pid namespaces: a build that is killed leaves no mount and no process.
    unshare -m -p -f --kill-child --mount-proc --propagation private \
        bash "$HERE/lib/provision-build.sh" "$partial" "$from" >"$partial/build.log" 2>&1 8>&- 9>&- ||
        die "the build failed; the end of $partial/build.log: $(tail -n 15 "$partial/build.log")"
    mv "$partial" "$PROVISION"
    provision_prune
)

# provision_prune: earlier builds that no cluster has used for a week.
provision_prune() {
    local old
    while read -r old; do
        grep -qF "lowerdir=$old/rootfs," /proc/[0-9]*/mountinfo 2>/dev/null || rm -rf --one-file-system "$old"
    done < <(find "$CACHE/testcluster" -mindepth 1 -maxdepth 1 -type d -mtime +7)
}

image_path() {
    case ${1-jp2a.sif} in
        jp2a.sif | jp2a.tar | sh.sif | image.png) printf '%s\n' "$CACHE/images/${1-jp2a.sif}" ;;
        *) die "no test image \"$1\": there are jp2a.sif, jp2a.tar, sh.sif and image.png" ;;
    esac
}
