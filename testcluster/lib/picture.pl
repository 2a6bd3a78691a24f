#!/usr/bin/perl
# Draws the sample picture, a padlock, as a grey 8-bit PNG on standard output. Its deflate blocks
# are stored ones (RFC 1951, 3.2.4), so that no compression library is needed.
use strict;
use warnings;

my $size = 240;
my @crc = map {
    my $c = $_;
    $c = $c & 1 ? 0xEDB88320 ^ ($c >> 1) : $c >> 1 for 1 .. 8;
    $c;
} 0 .. 255;

sub crc32 {
    my $c = 0xFFFFFFFF;
    $c = $crc[($c ^ $_) & 255] ^ ($c >> 8) for unpack 'C*', shift;
    return $c ^ 0xFFFFFFFF;
}

sub adler32 {
    my ($low, $high) = (1, 0);
    for (unpack 'C*', shift) {
        $low = ($low + $_) % 65521;
        $high = ($high + $low) % 65521;
    }
    return $high << 16 | $low;
}

sub chunk { return pack('N', length $_[1]) . $_[0] . $_[1] . pack('N', crc32($_[0] . $_[1])) }

sub shade {
    my ($x, $y) = @_;
    my $around = sqrt(($x - 120)**2 + ($y - 90)**2);
    my $shackle = $around > 42 && $around < 62 && $y < 90 || $y >= 90 && $y < 115 && abs(abs($x - 120) - 52) < 10;
    my $body = $x > 45 && $x < 195 && $y > 110 && $y < 215;
    my $keyhole = ($x - 120)**2 + ($y - 150)**2 < 196 || abs($x - 120) < 6 && $y > 150 && $y < 190;
    return 20 if $body && $keyhole;
    return 150 + int(($x - 45) / 2) if $body;
    return 230 if $shackle;
    return int($y / 8);
}

my $raw = '';
for my $y (0 .. $size - 1) { $raw .= "\0" . pack 'C*', map { shade($_, $y) } 0 .. $size - 1 }
my $stream = "\x78\x01";
for (my $at = 0; $at < length $raw; $at += 65535) {
    my $block = substr $raw, $at, 65535;
    $stream .= pack 'Cvv', $at + 65535 >= length $raw ? 1 : 0, length $block, 65535 - length $block;
    $stream .= $block;
}
$stream .= pack 'N', adler32($raw);
binmode STDOUT;
print "\x89PNG\r\n\x1a\n", chunk('IHDR', pack 'NNCCCCC', $size, $size, 8, 0, 0, 0, 0), chunk('IDAT', $stream), chunk('IEND', '');
