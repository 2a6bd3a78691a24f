package volume

import "errors"

// integrityError is a failure class that means: these are not the bytes that
// were sealed. Every such class also matches ErrIntegrity.
type integrityError string

func (e integrityError) Error() string        { return string(e) }
func (e integrityError) Is(target error) bool { return target == ErrIntegrity }

// ErrIntegrity matches every error that means altered, cut, moved or replayed
// bytes. The classes below that match it say where they were found.
var ErrIntegrity = errors.New("integrity check failed")

// Integrity failures, by place. Each matches ErrIntegrity as well.
var (
	// ErrFooter: the end of the file is not a sealed volume's.
	ErrFooter error = integrityError("not a sealed volume, or its end is damaged")
	// ErrIndex: the sealed index does not open or contradicts itself. A wrong
	// key looks the same, but keys.age and the key service say which volume theirs are for.
	ErrIndex error = integrityError("the volume's index is damaged or was altered")
	// ErrBlock: a block or header of encrypted content is not the sealed one.
	ErrBlock error = integrityError("encrypted content was altered")
	// ErrSize: a file is longer or shorter than it was when it was sealed.
	ErrSize error = integrityError("size differs from the sealed one")
	// ErrName: a file name that no file system could hold ("", "..", with "/"
	// or NUL, over 255 bytes), or one that does not decrypt.
	ErrName error = integrityError("invalid file name")
	// ErrMissing: something that was indexed is not there, or is something else.
	ErrMissing error = integrityError("it is missing, or was replaced by something else")
	// ErrAdded: something that was not indexed.
	ErrAdded error = integrityError("it was added later")
	// ErrDigest: the volume is not the one whose digest was expected: another, or another version.
	ErrDigest error = integrityError("it is another volume, or another version of it")
	// ErrChecksum: the whole file's checksum is not the expected one.
	ErrChecksum error = integrityError("checksum differs from the expected one")
)

// errKeysAge is a keys.age that is damaged, or another volume's.
var errKeysAge error = keysError{}

type keysError struct{}

func (keysError) Error() string        { return "the volume's " + keysName + " is damaged or was altered" }
func (keysError) Is(target error) bool { return target == ErrIntegrity || target == ErrKey }

// Failures that do not mean altered bytes.
var (
	// ErrVersion: a format version that this build does not read.
	ErrVersion = errors.New("unsupported volume format version")
	// ErrLimit: an index that is larger than the reader was asked to bear.
	ErrLimit = errors.New("the volume's index is too large")
	// ErrKey: not a master key, one that was wiped, the key of another volume, or
	// (with ErrIntegrity) a damaged keys.age.
	ErrKey = errors.New("not this volume's master key")
	// ErrIdentity: an identity or recipient that cannot be parsed or used.
	ErrIdentity = errors.New("unusable identity or recipient")
	// ErrNoIdentity: keys.age is encrypted to none of the identities given.
	ErrNoIdentity = errors.New("none of the identities opens this volume's keys.age")
	// ErrRecipients: recipients that do not go together, or whose plugin fails.
	ErrRecipients = errors.New("unusable recipients")
	// ErrRoom: a volume's keys.age cannot be replaced by a larger one.
	ErrRoom = errors.New("no room for these recipients")
	// ErrPath: a path that cannot be sealed or extracted to. With ErrIndex: an
	// index whose names make no tree.
	ErrPath = errors.New("unusable path")
	// ErrSpecial: a socket, pipe or device in the input.
	ErrSpecial = errors.New("not a regular file, directory or symbolic link")
	// ErrChanged: the input changed while it was being sealed; something in it vanished, too.
	ErrChanged = errors.New("changed while it was being read")
)
