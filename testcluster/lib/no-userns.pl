#!/usr/bin/perl
# no-userns.pl CMD ARG...: becomes CMD, below which nobody can make a user namespace, as on sites
# that forbid it. A seccomp filter, inherited for good, answers EPERM to clone(2) and unshare(2) with
# CLONE_NEWUSER, and ENOSYS to clone3(2), whose flags a filter cannot see; libraries then take clone.
# It is set by root without no_new_privs, so set-uid programs keep working.
use strict;
use warnings;
use POSIX ();

my $machine = (POSIX::uname())[4];
# The audit architecture (linux/audit.h), and the numbers of prctl, clone and unshare.
my %numbers = (x86_64 => [0xC000003E, 157, 56, 272], aarch64 => [0xC00000B7, 167, 220, 97]);
my ($arch, $prctl, $clone, $unshare) = @{$numbers{$machine} or die "no-userns.pl: not for $machine\n"};

use constant {
    LOAD => 0x20, EQUAL => 0x15, ANYBIT => 0x45, RETURN => 0x06,    # linux/bpf_common.h
    ALLOW => 0x7fff0000, ERRNO => 0x00050000,                       # linux/seccomp.h
    EPERM => 1, ENOSYS => 38, NEWUSER => 0x10000000, CLONE3 => 435,
};
# struct seccomp_data: the number at 0, the architecture at 4, the first argument's low half at 16.
my @filter = (
    [LOAD, 0, 0, 4],
    [EQUAL, 0, 7, $arch],
    [LOAD, 0, 0, 0],
    [EQUAL, 4, 0, CLONE3],
    [EQUAL, 1, 0, $clone],
    [EQUAL, 0, 3, $unshare],
    [LOAD, 0, 0, 16],
    [ANYBIT, 2, 1, NEWUSER],
    [RETURN, 0, 0, ERRNO | ENOSYS],
    [RETURN, 0, 0, ALLOW],
    [RETURN, 0, 0, ERRNO | EPERM],
);
my $code = join '', map { pack 'SCCL', @$_ } @filter;
my $program = pack 'S x![P] P', scalar @filter, $code;
# PR_SET_SECCOMP, SECCOMP_MODE_FILTER
syscall($prctl, 22, 2, $program, 0, 0) == 0 or die "no-userns.pl: seccomp: $!\n";
exec { $ARGV[0] } @ARGV or die "no-userns.pl: $ARGV[0]: $!\n";
