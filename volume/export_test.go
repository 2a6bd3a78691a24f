package volume

// For the tests in package volume_test, which must not see more of this one.
var (
	CompareTrees      = compareTrees
	GocryptfsBinaries = gocryptfsBinaries
	MountGocryptfs    = mountGocryptfs
	Unpack            = unpack
	CipherSize        = cipherSize
)
