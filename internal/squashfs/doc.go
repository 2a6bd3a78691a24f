// Package squashfs writes SquashFS 4.0 images in one pass, compressing on several goroutines, in memory that does not
// grow with the content. It reads none: Linux, squashfuse and unsquashfs do.
//
// Memory holds the tree that the caller builds, 4 bytes for each block of content, some 80 for each file, the
// directories' listings in compressed form, and a few MiB for each worker. The same contents and tree, in the same
// order, give the same bytes, whatever the number of workers.
//
// # The image
//
// All numbers are little-endian. The parts follow each other without gaps, in the order that Linux requires:
//
//	superblock         96 bytes, which say where the tables are
//	data               blocks of files, and fragments
//	inode table        metadata blocks
//	directory table    metadata blocks
//	fragment table     a table of 16-byte records: place (8), stored size (4), zero (4)
//	export table       a table of 8-byte references to the inodes, by number from 1
//	id table           a table of 4-byte numbers of users and groups
//	xattr table        if any file has extended attributes
//	zeros              up to a multiple of 4096 bytes
//
// The superblock:
//
//	 0 4  "hsqs"
//	 4 4  number of inodes
//	 8 4  time, in seconds since 1970, unsigned
//	12 4  size of a block, 131072
//	16 4  number of fragments
//	20 2  compression: 1 gzip (which means zlib streams), 6 zstd
//	22 2  17, of which the block size is the power of two
//	24 2  flags: 0x20 all tails are in fragments, 0x40 duplicates are stored once, 0x80 there
//	      is an export table, 0x200 there is no xattr table
//	26 2  number of ids
//	28 2  4, and
//	30 2  0: the version
//	32 8  reference to the root's inode
//	40 8  end of the last table, without the zeros
//	48 8  places of: the id table
//	56 8  the xattr table, or all ones
//	64 8  the inode table
//	72 8  the directory table
//	80 8  the fragment table
//	88 8  the export table
//
// # Data
//
// A file is cut into blocks of 128 KiB. Each is compressed for itself, unless that does not make it smaller; the blocks
// of a file lie one behind the other. A stored size has bit 24 set for a block that is not compressed; 0 stands for a
// block of zeros, which is not stored. What fills no block at the end of a file (the whole of a small one) goes to a
// fragment: a block in which such ends of several files follow each other. A file that is equal to one before refers
// to what is stored of that. With zstd, a frame's window is never larger than its block, since Linux allots no more.
//
// # Metadata blocks, references, tables
//
// Inodes and the like are streams of records, cut every 8 KiB, whatever record that splits. Each piece is compressed
// and preceded by two bytes: the size of what is stored, with bit 15 set if that is not compressed. A reference to a
// record is
//
//	place of its metadata block, counted from the first one of the stream << 16 | offset in the uncompressed block
//
// A table is such a stream of records of equal size, followed by the places of its metadata blocks in the image, of 8
// bytes each. The superblock says where that list begins.
//
// # Inodes
//
// There is a basic form of each type and an extended one, whose type is 7 more. All begin like this:
//
//	 0 2  type: 1 directory, 2 file, 3 symbolic link
//	 2 2  permissions, 12 bits
//	 4 2  user, and
//	 6 2  group: indexes into the id table
//	 8 4  time of modification, in seconds since 1970, unsigned
//	12 4  number of the inode, from 1
//
// and go on:
//
//	directory 16 4  metadata block of the listing        extended  16 4  links
//	          20 4  links: 2, and its directories                  20 4  size of the listing, and 3
//	          24 2  size of the listing, and 3                     24 4  metadata block of the listing
//	          26 2  offset of the listing in the block             28 4  number of the parent's inode
//	          28 4  number of the parent's inode, 0 of the root    32 2  entries in the index
//	                                                               34 2  offset of the listing
//	                                                               36 4  extended attributes
//	                                                               40 n  index
//	file      16 4  place of the first stored block      extended  16 8  place of the first stored block
//	          20 4  fragment, or all ones                          24 8  size
//	          24 4  offset in the fragment                         32 8  bytes in blocks of zeros
//	          28 4  size                                           40 4  links
//	          32 n  stored sizes of the blocks, 4 bytes each       44 4  fragment, or all ones
//	                                                               48 4  offset in the fragment
//	                                                               52 4  extended attributes
//	                                                               56 n  stored sizes of the blocks
//	link      16 4  links                                extended: the same, and
//	          20 4  length of the target                        24+n 4  extended attributes
//	          24 n  target
//
// Extended attributes are an index into the xattr table, or all ones. An inode is extended if it has any; a directory,
// too, if a run of its listing begins in a second metadata block (it gets an index then) or it exceeds 64 KiB; a file,
// too, if it has several names, blocks of zeros, or a size or place beyond 4 GiB.
//
// The inodes of a directory's entries follow each other, in the order of the names; their numbers do, too. So listings
// are short, and whoever lists a directory reads few metadata blocks.
//
// # Listings
//
// The entries of a directory are sorted by name, byte by byte, and come in runs of 1 to 256. All entries of a run have
// their inodes in one metadata block. A run also ends where its own metadata block does.
//
//	run     0 4  number of entries, minus 1
//	        4 4  metadata block of the inodes, counted from the inode table
//	        8 4  number of the first entry's inode
//	entry   0 2  offset of its inode in that block
//	        2 2  its number, minus the number in the head; signed
//	        4 2  type, always that of a basic inode
//	        6 2  length of the name, minus 1
//	        8 n  name
//	index   0 4  size of the listing before a run that begins in another metadata block than the run before
//	        4 4  that block
//	        8 4  length of the name of the run's first entry, minus 1
//	       12 n  that name
//
// With an index, squashfuse finds a name among 70,000 in a fiftieth of the time.
//
// # Extended attributes
//
// Inodes with equal sets of attributes share one. The table is not quite like the others: metadata blocks with the
// sets; metadata blocks with a 16-byte record for each set; a head; and the places of the second kind of blocks.
//
//	attribute  0 2  name space: 0 "user.", 1 "trusted.", 2 "security."
//	           2 2  length of the rest of the name
//	           4 n  rest of the name
//	         4+n 4  length of the value
//	         8+n m  value
//	record     0 8  reference to the set, counted from the first block
//	           8 4  number of attributes
//	          12 4  size of the set
//	head       0 8  place of the first block
//	           8 4  number of sets
//	          12 4  zero
//
// # What is left out, and what is not
//
// Devices, pipes and sockets are refused, and extended attributes in other name spaces (system.posix_acl_access, say).
// Times are whole seconds, and those before 1970 or after 2106 become the nearest that there is. A file of more than 32
// MiB that the image has already is stored again: it is too late when that is known. (Nodes may share a [Content].)
//
// The export table is there although few images are exported by NFS: Linux cannot make file handles without it, and
// overlay file systems want those of what they lie on; mksquashfs writes it by default. It takes less than 3 bytes
// for each file. Compressor options are not written, since no reader needs them.
//
// The format is described at https://dr-emann.github.io/squashfs/ and in squashfs-tools-ng's doc/format.adoc; where
// they leave something open, this package does what squashfs-tools 4.5.1 does.
package squashfs
