#!/bin/bash
# provision-build.sh DIR MIRROR: fills DIR with rootfs/, images/, keys/ and tools/. Runs as root in
# mount and pid namespaces of its own.
set -euo pipefail
dir=$1 mirror=${2%/}
here=$(dirname "$(readlink -f "$0")")
root=$dir/rootfs
suite=trixie
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

packages=(
    slurmctld slurmd slurm-client munge
    openssh-server openssh-client
    apptainer squashfuse fuse3 squashfs-tools
    gocryptfs age jq jp2a
    procps iproute2 util-linux ca-certificates tini
)

export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
eval "$(apt-config shell http_proxy Acquire::http::Proxy https_proxy Acquire::https::Proxy)"
export http_proxy=${http_proxy-} https_proxy=${https_proxy-}

# An older debootstrap does not know the suite's name; sid's script serves every recent one.
script=/usr/share/debootstrap/scripts/$suite
[ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
with=
case $mirror in https:*) with=--include=ca-certificates ;; esac
debootstrap --variant=minbase ${with:+"$with"} --keyring="$keyring" "$suite" "$root" "$mirror" "$script"

mount --bind "$root" "$root" # apptainer needs / to be a mount point
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
case $mirror in file:*) mkdir -p "$root${mirror#file:}" && mount --bind "${mirror#file:}" "$root${mirror#file:}" ;; esac
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # packages must not start daemons
chmod 755 "$root/usr/sbin/policy-rc.d"
cat >"$root/etc/dpkg/dpkg.cfg.d/lean" <<'EOF'
force-unsafe-io
path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
EOF
cat >"$root/etc/apt/apt.conf.d/lean" <<'EOF'
APT::Install-Recommends "false";
Acquire::Languages "none";
EOF
# apptainer is in unstable only, whose release file can look expired; gocryptfs 2.3 is Debian 12's.
: >"$root/etc/apt/sources.list"
for s in "$suite" unstable bookworm; do
    cat <<EOF
Types: deb
URIs: $mirror
Suites: $s
Components: main
Signed-By: $keyring
$([ "$s" != unstable ] || echo "Check-Valid-Until: no")

EOF
done >"$root/etc/apt/sources.list.d/debian.sources"
cat >"$root/etc/apt/preferences.d/lean" <<'EOF'
Package: *
Pin: release n=sid
Pin-Priority: -1

Package: *
Pin: release n=bookworm
Pin-Priority: -1

Package: apptainer
Pin: release n=sid
Pin-Priority: 990
EOF

in_root() { chroot "$root" "$@"; }
in_root apt-get -qq update
in_root apt-get -qq -y install "${packages[@]}"

# gocryptfs 2.3 as Debian 12 has it, beside this Debian's.
in_root sh -c 'cd /var/tmp && apt-get -qq download gocryptfs/bookworm && dpkg -x gocryptfs_*.deb /opt/gocryptfs-2.3 && rm gocryptfs_*.deb'
# shellcheck disable=SC2016 # dpkg's own syntax
in_root dpkg-query -W -f='${Package} ${Version}\n' "${packages[@]}" >"$dir/versions"
in_root apt-get clean
rm -rf "$root"/var/lib/apt/lists/* "$root"/etc/apt/sources.list.d/debian.sources "$root"/usr/sbin/policy-rc.d

# People and places. uids from 2000 on, as on a site; nobody's primary group is shared.
in_root groupadd -g 3001 project_1
for user in alice:2001 bob:2002 mallory:2003; do
    in_root useradd -u "${user#*:}" -U -M -d "/home/${user%:*}" -s /bin/bash "${user%:*}"
done
in_root usermod -a -G project_1 alice
in_root usermod -a -G project_1 bob
mkdir -p "$root"/{scratch,home,opt/sealbatch/bin,opt/sealbatch/images}
# shellcheck disable=SC2016 # for the shell that reads it
echo '[ ! -x /opt/sealbatch/bin/sealbatch ] || PATH=/opt/sealbatch/bin:$PATH' >"$root/etc/profile.d/sealbatch.sh"
cat >"$root/etc/ssh/sshd_config.d/cluster.conf" <<'EOF'
PasswordAuthentication no
# Parallel uploads of parallel tests open many connections at once.
MaxStartups 100
EOF
# Hosts get keys of their own when they start, so none may come from here.
rm -f "$root"/etc/munge/munge.key "$root"/etc/ssh/ssh_host_*

mkdir -m 700 "$dir/keys"
mkdir -p "$dir/images" "$root/var/tmp/make/keys"
for name in host_ed25519:ed25519 host_ecdsa:ecdsa host_rsa:rsa alice:ed25519 bob:ed25519 mallory:ed25519; do
    in_root ssh-keygen -q -t "${name#*:}" -N '' -C "${name%:*}@testcluster" -f "/var/tmp/make/keys/${name%:*}"
done
mv "$root"/var/tmp/make/keys/* "$dir/keys"

cp "$here/image.sh" "$root/var/tmp/make/image.sh"
in_root bash /var/tmp/make/image.sh /var/tmp/make
mv "$root"/var/tmp/make/{jp2a.sif,sh.sif,jp2a.tar} "$dir/images/"
perl "$here/picture.pl" >"$dir/images/image.png"
chmod 644 "$dir"/images/*
rm -rf "$root/var/tmp/make"

# Stock tools that run on this machine with the libraries they were built for.
mkdir -p "$dir/tools"
loader=$(in_root sh -c 'ls /lib64/ld-linux-*.so.* /lib/ld-linux-*.so.* 2>/dev/null | head -n 1')
libraries=$(in_root sh -c 'echo /usr/lib/*-linux-gnu')
for tool in gocryptfs-2.3:opt/gocryptfs-2.3/usr/bin/gocryptfs gocryptfs-2.5:usr/bin/gocryptfs \
    age:usr/bin/age age-keygen:usr/bin/age-keygen; do
    cat >"$dir/tools/${tool%:*}" <<EOF
#!/bin/sh
root=\$(dirname "\$(readlink -f "\$0")")/../rootfs
exec "\$root$loader" --library-path "\$root$libraries" "\$root/${tool#*:}" "\$@"
EOF
    chmod 755 "$dir/tools/${tool%:*}"
done
