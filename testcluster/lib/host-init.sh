#!/bin/bash
# host-init.sh HOST ROOTFS DIR SHARE BIN IMAGES CGROUP1 CGROUP2: becomes process 1 of a host. Runs in
# fresh mount, pid, uts, ipc and cgroup namespaces and in the host's network namespace; SHARE, BIN
# and IMAGES may be empty; CGROUP1 has a line "MOUNTPOINT OPTIONS" for each version 1 hierarchy.
set -euo pipefail
host=$1 rootfs=$2 dir=$3 share=$4 bin=$5 images=$6 cgroup1=$7 cgroup2=$8
root=$dir/root

# /proc is still this machine's, so it shows this process's id there.
read -r pid _ </proc/self/stat
echo "$pid" >"$dir/pid"

mkdir -p "$dir"/{upper,work,root}
mount -t overlay overlay -o "lowerdir=$rootfs,upperdir=$dir/upper,workdir=$dir/work" "$root"
tar -C "$dir/files" -c . | tar -C "$root" -x --no-overwrite-dir --same-owner --same-permissions

mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
if [ -n "$cgroup1" ]; then
    mount -t tmpfs -o mode=755,nosuid,nodev,noexec cgroup "$root/sys/fs/cgroup"
    while read -r at options; do
        at=$root/sys/fs/cgroup/${at##*/}
        mkdir -p "$at"
        mount -t cgroup -o "$options" cgroup "$at"
    done <<<"$cgroup1"
    if [ -n "$cgroup2" ]; then
        mkdir -p "$root/sys/fs/cgroup/unified"
        mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
    fi
else
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
fi

# A /dev of its own: this machine's /dev/fuse may be closed to users, and its /dev/pts is not ours.
mount -t tmpfs -o mode=755,nosuid,noexec dev "$root/dev"
while read -r name major minor; do mknod -m 666 "$root/dev/$name" c "$major" "$minor"; done <<'EOF'
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
fuse 10 229
EOF
ln -s /proc/self/fd "$root/dev/fd"
for n in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${n%:*}" "$root/dev/${n#*:}"; done
mkdir "$root"/dev/{pts,shm,mqueue}
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5,nosuid,noexec devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t mqueue -o nosuid,nodev,noexec mqueue "$root/dev/mqueue"
mount -t tmpfs -o mode=1777,nosuid,nodev shm "$root/dev/shm"
mount -t tmpfs -o mode=1777,nosuid,nodev tmp "$root/tmp"
mount -t tmpfs -o mode=755,nosuid,nodev run "$root/run"
install -d -m 755 "$root/run/sshd"
chroot "$root" install -d -o munge -g munge -m 755 /run/munge
chroot "$root" install -d -o slurm -g slurm -m 755 /run/slurm

if [ -n "$share" ]; then
    mount --bind "$share/home" "$root/home"
    mount --rbind "$share/scratch" "$root/scratch"
else
    rm -df "$root/scratch" # it is gone already if this host has been up before
fi
read_only() {
    mount --bind "$1" "$2"
    mount -o remount,bind,ro,nosuid,nodev "$2"
}
[ -z "$bin" ] || read_only "$bin" "$root/opt/sealbatch/bin"
[ -z "$images" ] || read_only "$images" "$root/opt/sealbatch/images"

mkdir "$root/.old"
cd "$root"
pivot_root . .old
cd /
umount -l /.old
rmdir /.old
hostname "$host"
umask 022
# tini reaps what daemons and jobs leave behind; when it goes, the kernel ends the whole host.
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin tini -- sleep infinity </dev/null >/dev/null 2>&1
