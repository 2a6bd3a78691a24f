// Package volume seals directory trees into single files, reads them at random,
// and opens them again. It knows no FUSE and no network.
//
// # The sealed volume, format 1
//
// docs/sealed-volume.md describes it for whoever writes a reader, docs/vectors
// holds volumes to test one with. In short:
//
// A sealed volume is one POSIX tar file, written in one pass (but for a head that
// is known last, see Late). All its numbers are big-endian. Its entries, in this order:
//
//	keys.age                  the master key, encrypted with age to the owner's recipients
//	volume/                   a gocryptfs v2 cipher directory
//	volume/gocryptfs.diriv    16 random bytes, in this and every further directory
//	volume/...                the tree, each directory before what it holds
//	index                     the sealed index
//	footer                    512 bytes
//	                          1024 zero bytes, the end of every tar file, and nothing more
//
// Unpacked with tar, volume/ is mounted by `gocryptfs -ro -masterkey=stdin`,
// which is given the key's 64 hexadecimal digits. The volume's root is the
// sealed directory itself; a single file is sealed as the only entry of a root
// that is made for it. Times in tar headers are whole seconds and owners are
// 0:0; everything is in USTAR form except where a path or a time needs a PAX
// record, or a size that is known last gets one.
//
// # keys.age
//
// The plaintext is one line of JSON. It serves recovery and proves no origin,
// since anyone can encrypt to a public recipient.
//
//	{"format":"sealbatch-key-1","volume":"<32 hex digits>","key":"<64 hex digits>"}
//
// # Content
//
// Five 32-byte keys are derived from the 32-byte master key by HKDF-SHA256
// without salt. The first two infos are those of gocryptfs:
//
//	AES-GCM file content encryption    AES-256-GCM, 16-byte nonces: blocks, symlink targets
//	EME filename encryption            AES-256-EME, tweaked by the directory's diriv: names
//	sealbatch index v1                 AES-256-GCM, 12-byte nonce: the index
//	sealbatch file id v1               HMAC-SHA256: file ids
//	sealbatch cipher directory index v1   AES-256-GCM, 12-byte nonce: see below
//
// An empty file has no ciphertext. Any other has a header and its blocks, each
// with up to 4096 bytes of plaintext:
//
//	header      0  2  version, 2
//	            2 16  file id: the first 16 bytes of the HMAC over the node's number (8 bytes)
//	block       0 16  nonce, random
//	           16  n  ciphertext
//	         16+n 16  tag; additional data: block number (8 bytes), file id
//
// So 1 byte becomes 18+33 = 51, 4096 become 18+4128 = 4146, 4097 become 4179,
// and 1 GiB becomes 18+262144*4128 = 1,082,130,450 (0.8 % more). Holes become
// encrypted zeros. A name is padded to a multiple of 16 bytes (PKCS#7),
// encrypted, and written as unpadded base64url; from 176 bytes on, that is too
// long for a directory, and the entry is called gocryptfs.longname.HASH, while
// gocryptfs.longname.HASH.name holds the long form. A symlink's target is
// encrypted as a block with number 0 and no file id, then base64url; it can have
// 3039 bytes. Further names of a file are tar hard links. Extended attributes,
// owners and ACLs are not kept.
//
// # Index
//
//	 0  8  "SBINDEX1"
//	 8  4  format version, 1
//	12  4  zero
//	16 16  volume id, random
//	32  8  length of the whole file
//	40  8  offset of this header in the file
//	48  8  number of names, the root not counted; at most 2^26
//	56  8  length of the records; below 2^32
//	64  8  length of the records after compression; at most 2^31
//	72 12  nonce, random
//	84 12  zero
//	96  n  the records, compressed with zstd (window up to 4 MiB), encrypted
//	96+n 16  tag; additional data: the 96 bytes above
//
// Records use the varints of encoding/binary. The root comes first and has only
// attributes. Nodes are numbered in the order of their records, from 0, the
// root; a hard link makes no new node.
//
//	attributes   mode (12 bits), mtime in seconds (signed), nanoseconds
//	record       type (1 byte), parent's number, length and bytes of the name, and then:
//	1 directory  attributes
//	2 file       attributes, size; unless that is 0: distance of the ciphertext from the
//	             end of the ciphertext before (from 0, for the first)
//	3 symlink    attributes, length and bytes of the target
//	4 hard link  number of the file
//
// A master key seals one index, ever: a retried seal begins with a fresh key.
//
// # Footer
//
// The footer begins 1536 bytes before the end of the file. It is a hint: what it
// says is repeated in the index's header.
//
//	 0 16  "sealbatch volume"
//	16  4  format version, 1
//	20  4  zero
//	24 16  volume id
//	40  8  length of the whole file
//	48  8  offset of the index's header
//	56  8  length of the sealed index: 96 + n + 16
//	64 448 zero
//
// # Digest and checksum
//
// The volume digest is SHA-256 over the format version (4 bytes), the volume id
// and the sealed index with its header. It is what signed documents and keys are
// bound to. With it, whoever has no key cannot alter, move, cut, replace or roll
// back anything without the reader noticing: it uses nothing but the index,
// requires the file id that it computes, and knows no holes.
//
// Whoever has the key and can write the file may still alter blocks. That is
// found by the checksum: SHA-256 over the SHA-256s of the file's 64 MiB segments.
//
// # Index of a cipher directory
//
// Outputs are written into a plain gocryptfs directory. Where they are not sealed
// into a volume of their own at the end, for want of time or room, an index beside
// the directory says what belongs into it; nothing is copied. It is sealed as the
// one above, under its own key, with the same header but for
//
//	 0  8  "SBDIRIX1"
//	32 16  zero: there is no file that it lies in
//
// and with the same records but for what comes last in them:
//
//	1 directory  its gocryptfs.diriv, 16 bytes, from which the names on disk follow
//	2 file       size; bytes of ciphertext beyond those of the blocks (what a torn
//	             write left; 18 for a bare header); unless the size is 0: file id,
//	             16 bytes; the number of digests, and that many of 32 bytes
//
// The digests are SHA-256 over each 256 blocks of ciphertext, 1 MiB of plaintext;
// the first covers the file's header too. There are none if the file was not read,
// for want of time: then only its id and size are known, which tell it from every
// other file, but not from an older version of itself. Holes are those of
// gocryptfs: blocks of zeros. The digest of such an index is made as a volume's.
// A Reader of it uses neither names, gocryptfs.diriv, links nor attributes of the
// directory. Who has the key and writes the directory cannot alter what has digests.
//
// # A worked example
//
// testdata/golden/one.vol holds one file of 14 bytes, image.sif; its .json gives
// key, id, digest and checksum. (In the golden volumes, keys.age is a line of
// text.)
//
//	   0   512  tar header of keys.age
//	 512   512  keys.age: 44 bytes, padding
//	1024   512  tar header of volume/
//	1536  1024  tar header and data of volume/gocryptfs.diriv
//	2560   512  tar header of volume/iiqyOQ1gP4TXSd6YUloCcQ
//	3072   512  its ciphertext: 18+14+32 = 64 bytes, padding
//	3584   512  tar header of index
//	4096   512  index: 96+50+16 = 162 bytes (37 before compression), padding
//	4608   512  tar header of footer
//	5120   512  footer
//	5632  1024  end of the tar file; 6656 bytes in all
//
// # What a sealed volume tells without the key
//
// The number of files, directories and links; their sizes to the byte; their
// modes and times; the shape of the tree; the lengths of names in steps of 16
// bytes, and of symlink targets; the number and kinds of recipients; the
// compressed length of the index. Hard links show as such. Not: names, targets,
// content, or whether two contents are equal.
package volume
